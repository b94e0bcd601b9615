/* Runs short machine-code snippets on the processor of this machine, one instruction at a time.
 *
 *   executor START:LENGTH ...      (hexadecimal, page-aligned: the guest memory, the same for all vectors)
 *
 * The regions are mapped at exactly those addresses of this process. A snippet is entered by way of a signal handler, which
 * replaces every register in its frame and sets TF; from then on each instruction ends in a signal, SIGTRAP or that of a
 * fault, whose frame has the state, and for a fault the hardware's vector, error code and CR2. There is no second process,
 * because a switch for each instruction takes most of the time, and on a busy machine a hundred times as long. Requests come
 * on stdin and answers go to stdout as little-endian structs (see struct request, struct answer, struct run); the driver is
 * executor.py.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>
#include <unistd.h>

enum { MAX_REGIONS = 16, ALT_STACK = 1 << 16, PAGE = 4096, MAX_REP = 100 };
enum { ARITH = 0x8d5, TF = 0x100, DF = 0x400 };
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
static const struct request *volatile asked;   /* what runs, and what came of it; the handlers know them too */
static struct answer *volatile answered;
static ucontext_t outside;                 /* where the loop over requests goes on */
static uint64_t host_fs, host_gs;

static void die(const char *what)
{
    fprintf(stderr, "executor: %s: %s\n", what, strerror(errno));
    exit(3);
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

/* Without the C library, which finds errno by way of FS. */
static long base(int which, uint64_t value)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "0"((long)SYS_arch_prctl), "D"((long)which), "S"(value) : "rcx", "r11", "memory");
    return result;
}

/* The general registers in the order of the protocol, as the frame of a signal names them. */
static const int order[RIP + 1] = {
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12,
    REG_R13, REG_R14, REG_R15, REG_RIP,
};

static void get_regs(const greg_t *from)
{
    for (int i = 0; i <= RIP; i++) answered->regs[i] = from[order[i]];
    answered->regs[FLAGS] = from[REG_EFL] & ~0x10300ull;
}

/* In the handler of the first signal: go to the guest. */
static void enter(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    (void)sig, (void)info;
    outside = *uc;
    greg_t *to = uc->uc_mcontext.gregs;
    for (int i = 0; i <= RIP; i++) to[order[i]] = asked->regs[i];
    to[REG_EFL] = (asked->regs[FLAGS] & (ARITH | DF)) | 0x202 | TF;
    base(ARCH_SET_GS, asked->regs[GS_BASE]);
    base(ARCH_SET_FS, asked->regs[FS_BASE]);
}

static enum kind kind;
static uint64_t before;
static int iterations;

/* The next instruction, before it runs; 0 when it must not. */
static int look(uint64_t rip)
{
    before = rip;
    iterations = 0;
    kind = classify(rip);
    return kind != FORBIDDEN;
}

/* What the instruction did. Returns 1 when there is another to run. */
static int stepped(const greg_t *regs, int sig)
{
    struct answer *a = answered;
    uint64_t left;

    get_regs(regs);
    a->signal = sig;
    if (sig != SIGTRAP || regs[REG_TRAPNO] == 3) {
        a->status = TRAPPED;
        a->vector = regs[REG_TRAPNO];
        a->error = regs[REG_ERR];
        a->cr2 = regs[REG_CR2];
        return 0;
    }
    if (kind == REP_STRING && a->regs[RIP] == before) {
        if (++iterations < MAX_REP) return 1;
        a->status = RUNAWAY;
        return 0;
    }
    /* The image shows this process's TF (the step) and IF (user mode): the vectors run with both clear. */
    uint8_t *image = kind == PUSHF ? guest(a->regs[RSP], &left) : NULL;
    if (image && left > 1) image[1] &= ~3;
    if (++a->steps >= asked->insns) return 0;
    if (look(a->regs[RIP])) return 1;
    a->status = REFUSED;
    return 0;
}

/* In the handler of every signal of the guest: note, and return to it or to the loop over requests. */
static void step(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *regs = uc->uc_mcontext.gregs;
    (void)info;
    __asm__ volatile("pushfq; andl $~0x40000, (%%rsp); popfq" : : : "memory", "cc");   /* AC may be the guest's */
    if (!answered) _exit(6);                              /* a fault of our own */
    if (stepped(regs, sig)) {
        regs[REG_EFL] |= TF;
        return;
    }
    base(ARCH_SET_FS, host_fs);
    base(ARCH_SET_GS, host_gs);
    memcpy(regs, outside.uc_mcontext.gregs, sizeof outside.uc_mcontext.gregs);
}

static void run_guest(const struct request *q, struct answer *a)
{
    memcpy(a->regs, q->regs, sizeof a->regs);
    if (q->regs[FS_BASE] >> 47 || q->regs[GS_BASE] >> 47 || !look(q->regs[RIP])) {
        a->status = REFUSED;
        return;
    }
    asked = q;
    answered = a;
    long result, self = getpid();     /* kill() of the C library is said not to call back, which it does here */
    __asm__ volatile("syscall" : "=a"(result) : "0"((long)SYS_kill), "D"(self), "S"((long)SIGUSR1) : "rcx", "r11", "memory");
    answered = NULL;
}

static void prepare(void)
{
    static const int ours[] = { SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGILL };
    struct sigaction action = { .sa_sigaction = step, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    stack_t stack = { .ss_size = ALT_STACK };

    stack.ss_sp = mmap(NULL, ALT_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack.ss_sp == MAP_FAILED || sigaltstack(&stack, NULL)) die("sigaltstack");
    for (unsigned i = 0; i < sizeof ours / sizeof *ours; i++)
        if (sigaction(ours[i], &action, NULL)) die("sigaction");
    action.sa_sigaction = enter;
    if (sigaction(SIGUSR1, &action, NULL)) die("sigaction");
    if (base(ARCH_GET_FS, (uint64_t)&host_fs) || base(ARCH_GET_GS, (uint64_t)&host_gs)) die("arch_prctl");
    for (int i = 0; i < nregions; i++) {
        struct region *g = &regions[i];
        int protection = PROT_READ | PROT_WRITE | PROT_EXEC;
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE;
        g->live = mmap((void *)g->start, g->length, protection, flags, -1, 0);
        g->want = malloc(g->length);
        if (g->live != (void *)g->start || !g->want) {
            fprintf(stderr, "executor: cannot map guest memory at %#lx: %s (is vm.mmap_min_addr above it?)\n", g->start,
                    strerror(errno));
            exit(4);
        }
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

int main(int argc, char **argv)
{
    struct request q;
    if (personality(ADDR_NO_RANDOMIZE) >= 0 && !getenv("EXECUTOR_FIXED")) {
        setenv("EXECUTOR_FIXED", "1", 1);
        execv("/proc/self/exe", argv);
    }
    for (int i = 1; i < argc && nregions < MAX_REGIONS; i++, nregions++)
        if (sscanf(argv[i], "%lx:%lx", &regions[nregions].start, &regions[nregions].length) != 2) return 2;
    prepare();
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
    return 0;
}
