/* Runs short machine-code snippets on the processor of this machine, one instruction at a time, under ptrace.
 *
 *   executor START:LENGTH ...      (hexadecimal, page-aligned: the guest memory, the same for all vectors)
 *
 * A forked child maps the regions at exactly those addresses, shared with this process, which writes the initial
 * bytes, sets every register, single-steps, and reads back what changed. Requests come on stdin and answers go to
 * stdout as little-endian structs (see struct request, struct answer, struct run); the driver is executor.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/ucontext.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_REGIONS = 16, ALT_STACK = 1 << 16, PAGE = 4096, MAX_REP = 100000 };
enum { ARITH = 0x8d5, DF = 0x400 };
enum { DONE = 0, TRAPPED = 1, REFUSED = 2, RUNAWAY = 3 };

/* rax rcx rdx rbx rsp rbp rsi rdi r8..r15, rip, rflags, fs_base, gs_base: the order of executor.REGS. */
enum { RSP = 4, RIP = 16, FLAGS, FS_BASE, GS_BASE, NREGS };

struct request { uint32_t insns, segments, fill, zero; uint64_t regs[NREGS]; };
struct run { uint64_t address; uint32_t length, zero; };   /* followed by the bytes; also a request's segment */
struct answer {
    uint32_t status, steps, runs, vector, error, signal;   /* steps: instructions that retired */
    uint64_t cr2, regs[NREGS];
};

struct region { uint64_t start, length; uint8_t *live, *want; };

static struct region regions[MAX_REGIONS];
static int nregions;
static uint8_t *alt_stack;
static pid_t child;
static struct user_regs_struct pristine;   /* selectors and the like */

static void die(const char *what)
{
    fprintf(stderr, "executor: %s: %s\n", what, strerror(errno));
    exit(3);
}

static void never_run(int sig, siginfo_t *info, void *context) { (void)sig, (void)info, (void)context; }

/* The child: take the guest's addresses, a signal frame that the parent can read, and wait. */
static void become_guest(int memory)
{
    static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };
    struct sigaction action = { .sa_sigaction = never_run, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
    stack_t stack = { .ss_sp = alt_stack, .ss_size = ALT_STACK };
    off_t offset = 0;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < nregions; i++) {
        void *at = mmap((void *)regions[i].start, regions[i].length, PROT_READ | PROT_WRITE | PROT_EXEC,
                        MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, memory, offset);
        if (at != (void *)regions[i].start) {
            fprintf(stderr, "executor: cannot map guest memory at %#lx: %s (is vm.mmap_min_addr above it?)\n",
                    regions[i].start, strerror(errno));
            _exit(4);
        }
        offset += regions[i].length;
    }
    if (sigaltstack(&stack, NULL)) die("sigaltstack");
    for (unsigned i = 0; i < sizeof faults / sizeof *faults; i++) sigaction(faults[i], &action, NULL);
    if (ptrace(PTRACE_TRACEME, 0, 0, 0)) { fprintf(stderr, "executor: ptrace is forbidden here\n"); _exit(5); }
    raise(SIGSTOP);
    for (;;) pause();
}

static void start_guest(void)
{
    int status, memory = memfd_create("guest", MFD_CLOEXEC);
    off_t total = 0;

    for (int i = 0; i < nregions; i++) total += regions[i].length;
    if (memory < 0 || ftruncate(memory, total)) die("memfd");
    alt_stack = mmap(NULL, ALT_STACK, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (alt_stack == MAP_FAILED) die("mmap");
    if ((child = fork()) < 0) die("fork");
    if (!child) become_guest(memory);
    if (waitpid(child, &status, 0) < 0) die("waitpid");
    if (WIFEXITED(status)) exit(WEXITSTATUS(status));
    if (ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_EXITKILL)) die("ptrace options");
    if (ptrace(PTRACE_GETREGS, child, 0, &pristine)) die("ptrace getregs");
    total = 0;
    for (int i = 0; i < nregions; i++) {
        regions[i].live = mmap(NULL, regions[i].length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory, total);
        regions[i].want = malloc(regions[i].length);
        if (regions[i].live == MAP_FAILED || !regions[i].want) die("mmap");
        total += regions[i].length;
    }
}

/* The guest's bytes from an address to the end of its region; 0 bytes when it is outside. */
static uint8_t *guest(uint64_t address, uint64_t *left)
{
    for (int i = 0; i < nregions; i++)
        if (address - regions[i].start < regions[i].length) {
            *left = regions[i].length - (address - regions[i].start);
            return regions[i].live + (address - regions[i].start);
        }
    *left = 0;
    return NULL;
}

enum kind { PLAIN, REP_STRING, PUSHF, BREAKPOINT, FORBIDDEN };

/* Just enough decoding to step correctly. */
static enum kind classify(uint64_t rip)
{
    uint64_t left;
    uint8_t *p = guest(rip, &left);
    int rep = 0;

    for (; left && (*p == 0x66 || *p == 0x67 || *p == 0xf0 || *p == 0xf2 || *p == 0xf3 || *p == 0x2e || *p == 0x36 ||
                    *p == 0x3e || *p == 0x26 || *p == 0x64 || *p == 0x65 || (*p & 0xf0) == 0x40); p++, left--)
        rep |= *p == 0xf2 || *p == 0xf3;
    if (!left) return PLAIN;
    if (rep && ((*p >= 0xa4 && *p <= 0xa7) || (*p >= 0xaa && *p <= 0xaf))) return REP_STRING;
    if (*p == 0x9c) return PUSHF;
    if (*p == 0xcc) return BREAKPOINT;
    if (left > 1 && *p == 0xcd) return p[1] == 3 ? BREAKPOINT : p[1] == 4 ? PLAIN : FORBIDDEN;
    if (left > 1 && *p == 0x0f && (p[1] == 0x05 || p[1] == 0x34)) return FORBIDDEN;
    return PLAIN;
}

static void get_regs(uint64_t out[NREGS])
{
    struct user_regs_struct r;
    if (ptrace(PTRACE_GETREGS, child, 0, &r)) die("ptrace getregs");
    uint64_t v[NREGS] = { r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
                          r.r13, r.r14, r.r15, r.rip, (r.eflags & ~0x10300ull), r.fs_base, r.gs_base };
    memcpy(out, v, sizeof v);
}

static int set_regs(const uint64_t v[NREGS])
{
    struct user_regs_struct r = pristine;
    r.rax = v[0], r.rcx = v[1], r.rdx = v[2], r.rbx = v[3], r.rsp = v[4], r.rbp = v[5], r.rsi = v[6], r.rdi = v[7];
    r.r8 = v[8], r.r9 = v[9], r.r10 = v[10], r.r11 = v[11], r.r12 = v[12], r.r13 = v[13], r.r14 = v[14], r.r15 = v[15];
    r.rip = v[RIP], r.eflags = (v[FLAGS] & (ARITH | DF)) | 0x202, r.fs_base = v[FS_BASE], r.gs_base = v[GS_BASE];
    r.orig_rax = -1;
    return ptrace(PTRACE_SETREGS, child, 0, &r);
}

static int step(int sig)
{
    int status;
    if (ptrace(PTRACE_SINGLESTEP, child, 0, sig)) die("ptrace step");
    if (waitpid(child, &status, 0) < 0) die("waitpid");
    if (!WIFSTOPPED(status)) { fprintf(stderr, "executor: the guest died (status %#x)\n", status); exit(3); }
    return WSTOPSIG(status);
}

/* Has the kernel build the signal frame, which holds the hardware's vector, error code and CR2. */
static void read_fault(struct answer *a)
{
    struct user_regs_struct r;
    if (step(a->signal) != SIGTRAP || ptrace(PTRACE_GETREGS, child, 0, &r)) die("signal frame");
    ucontext_t uc;
    if (r.rdx - (uint64_t)alt_stack > ALT_STACK - sizeof uc) die("signal frame outside its stack");
    memcpy(&uc, (void *)r.rdx, sizeof uc);
    a->vector = uc.uc_mcontext.gregs[REG_TRAPNO];
    a->error = uc.uc_mcontext.gregs[REG_ERR];
    a->cr2 = uc.uc_mcontext.gregs[REG_CR2];
}

static void run_guest(const struct request *q, struct answer *a)
{
    uint64_t left, before;
    if (set_regs(q->regs)) { a->status = REFUSED; memcpy(a->regs, q->regs, sizeof a->regs); return; }
    memcpy(a->regs, q->regs, sizeof a->regs);
    while (a->steps < q->insns) {
        before = a->regs[RIP];
        enum kind kind = classify(before);
        if (kind == FORBIDDEN) { a->status = REFUSED; return; }
        for (int i = 0; i < MAX_REP; i++) {
            a->signal = step(0);
            get_regs(a->regs);
            if (a->signal != SIGTRAP || kind != REP_STRING || a->regs[RIP] != before) break;
        }
        if (a->signal != SIGTRAP) { a->status = TRAPPED; read_fault(a); return; }
        if (kind == REP_STRING && a->regs[RIP] == before) { a->status = RUNAWAY; return; }
        if (kind == BREAKPOINT) { a->status = TRAPPED; a->vector = 3; return; }
        /* The image shows this process's TF (the step) and IF (user mode): the vectors run with both clear. */
        uint8_t *image = kind == PUSHF ? guest(a->regs[RSP], &left) : NULL;
        if (image && left > 1) image[1] &= ~3;
        a->steps++;
    }
}

static void take(void *to, size_t n)
{
    if (fread(to, 1, n, stdin) != n) { fprintf(stderr, "executor: truncated request\n"); exit(3); }
}

/* Which bytes differ from what the vector put there, as runs; the answer's header is written when the count is known. */
static void answer(struct answer *a)
{
    static struct { struct run head; const uint8_t *bytes; } runs[65536];
    a->runs = 0;
    for (int i = 0; i < nregions; i++) {
        struct region *g = &regions[i];
        for (uint64_t page = 0; page < g->length; page += PAGE) {
            if (!memcmp(g->live + page, g->want + page, PAGE)) continue;
            for (uint64_t at = page, end; at < page + PAGE; at = end) {
                for (end = at; end < page + PAGE && g->live[end] != g->want[end]; end++) {}
                if (end == at) { end++; continue; }
                if (a->runs < 65536) {
                    runs[a->runs].head = (struct run){ g->start + at, end - at, 0 };
                    runs[a->runs++].bytes = g->live + at;
                }
            }
        }
    }
    fwrite(a, sizeof *a, 1, stdout);
    for (uint32_t i = 0; i < a->runs; i++) {
        fwrite(&runs[i].head, sizeof runs[i].head, 1, stdout);
        fwrite(runs[i].bytes, 1, runs[i].head.length, stdout);
    }
}

/* Both processes on one CPU: a step then costs two context switches, not two wake-ups of an idle CPU. */
static void pin(void)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
}

int main(int argc, char **argv)
{
    struct request q;
    if (personality(ADDR_NO_RANDOMIZE) >= 0 && !getenv("EXECUTOR_FIXED")) {
        setenv("EXECUTOR_FIXED", "1", 1);
        execv("/proc/self/exe", argv);
    }
    for (int i = 1; i < argc && nregions < MAX_REGIONS; i++, nregions++)
        if (sscanf(argv[i], "%lx:%lx", &regions[nregions].start, &regions[nregions].length) != 2) return 2;
    pin();
    start_guest();
    while (fread(&q, 1, sizeof q, stdin) == sizeof q) {
        struct answer a = { 0 };
        struct run s;
        for (int i = 0; i < nregions; i++) memset(regions[i].live, q.fill, regions[i].length);
        for (uint32_t i = 0; i < q.segments; i++) {
            uint64_t left;
            take(&s, sizeof s);
            uint8_t *to = guest(s.address, &left);
            if (!to || left < s.length) { fprintf(stderr, "executor: %#lx is outside guest memory\n", s.address); return 3; }
            take(to, s.length);
        }
        for (int i = 0; i < nregions; i++) memcpy(regions[i].want, regions[i].live, regions[i].length);
        run_guest(&q, &a);
        answer(&a);
    }
    fflush(stdout);
    ptrace(PTRACE_KILL, child, 0, 0);
    return 0;
}
