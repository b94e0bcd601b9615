/* Runs single instructions on the processor of the host: what the reference in flags_reference.py is compared with.
 *
 * Records come on stdin and go back, filled in, on stdout. Compiled by opbench.py, which defines OP_* from hw.isa.facts.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>

struct record {
    uint64_t op, size, count, rflags, a, b, hi, error;
};

static sigjmp_buf after_fault;

static void on_fault(int signal) { siglongjmp(after_fault, signal); }

#define RUN(insn)                                                                        \
    __asm__ volatile("push %[f]\n popfq\n " insn "\n pushfq\n pop %[f]"                  \
                     : [f] "+&r"(f), "+&a"(a), "+&d"(hi)                                 \
                     : [b] "r"(b), "c"(count)                                            \
                     : "cc", "memory")

#define WIDE(name, s1, s2, s3)                                                           \
    case OP_##name * 4 + 1: RUN(s1); break;                                              \
    case OP_##name * 4 + 2: RUN(s2); break;                                              \
    case OP_##name * 4 + 3: RUN(s3); break;
#define ALL(name, s0, s1, s2, s3)                                                        \
    case OP_##name * 4 + 0: RUN(s0); break;                                              \
    WIDE(name, s1, s2, s3)
#define UNARY(name, m) ALL(name, m "b %%al", m "w %%ax", m "l %%eax", m "q %%rax")
#define BINARY(name, m) ALL(name, m "b %b[b], %%al", m "w %w[b], %%ax", m "l %k[b], %%eax", m "q %[b], %%rax")
#define BINARYW(name, m) WIDE(name, m "w %w[b], %%ax", m "l %k[b], %%eax", m "q %[b], %%rax")
#define SHIFT(name, m) ALL(name, m "b %%cl, %%al", m "w %%cl, %%ax", m "l %%cl, %%eax", m "q %%cl, %%rax")
#define DOUBLE(name, m)                                                                  \
    WIDE(name, m "w %%cl, %w[b], %%ax", m "l %%cl, %k[b], %%eax", m "q %%cl, %[b], %%rax")
#define TWO(name, m)                                                                     \
    case OP_##name * 4 + 2: RUN(m " %k[b], %%eax"); break;                               \
    case OP_##name * 4 + 3: RUN(m " %[b], %%rax"); break;
#define THREE(name, m)                                                                   \
    case OP_##name * 4 + 2: RUN(m " %k[b], %%eax, %%eax"); break;                        \
    case OP_##name * 4 + 3: RUN(m " %[b], %%rax, %%rax"); break;
#define STACKED(s) "push %[b]\n " s "\n lea 8(%%rsp), %%rsp"
#define FROM_MEMORY(name, s1, s2, s3) WIDE(name, STACKED(s1), STACKED(s2), STACKED(s3))
#define WIDENING(name, m) ALL(name, m "b %b[b]", m "w %w[b]", m "l %k[b]", m "q %[b]")

static void run(struct record *r)
{
    uint64_t f = r->rflags, a = r->a, hi = r->hi;
    const uint64_t b = r->b, count = r->count;

    switch (r->op * 4 + r->size) {
        BINARY(ADD, "add") BINARY(OR, "or") BINARY(ADC, "adc") BINARY(SBB, "sbb")
        BINARY(AND, "and") BINARY(SUB, "sub") BINARY(XOR, "xor")
        UNARY(INC, "inc") UNARY(DEC, "dec") UNARY(NOT, "not") UNARY(NEG, "neg")
        SHIFT(ROL, "rol") SHIFT(ROR, "ror") SHIFT(RCL, "rcl") SHIFT(RCR, "rcr")
        SHIFT(SHL, "shl") SHIFT(SHR, "shr") SHIFT(SAR, "sar")
        DOUBLE(SHLD, "shld") DOUBLE(SHRD, "shrd")
        BINARYW(BT, "bt") BINARYW(BTS, "bts") BINARYW(BTR, "btr") BINARYW(BTC, "btc")
        BINARYW(BSF, "bsf") BINARYW(BSR, "bsr")
        BINARYW(TZCNT, "tzcnt") BINARYW(LZCNT, "lzcnt") BINARYW(POPCNT, "popcnt")
        WIDE(BSWAP, "mov %w[b], %%ax\n .byte 0x66, 0x0f, 0xc8", "mov %k[b], %%eax\n bswap %%eax", "mov %[b], %%rax\n bswap %%rax")
        FROM_MEMORY(MOVBE, "movbe (%%rsp), %%ax", "movbe (%%rsp), %%eax", "movbe (%%rsp), %%rax")
        THREE(ANDN, "andn") THREE(BEXTR, "bextr") THREE(BZHI, "bzhi") THREE(PDEP, "pdep") THREE(PEXT, "pext")
        TWO(BLSR, "blsr") TWO(BLSI, "blsi") TWO(BLSMSK, "blsmsk") TWO(ADOX, "adox")
        ALL(CRC32, "crc32b %b[b], %%eax", "crc32w %w[b], %%eax", "crc32l %k[b], %%eax", "crc32q %[b], %%rax")
        BINARYW(IMUL2, "imul")
        WIDENING(MUL, "mul") WIDENING(IMUL, "imul") WIDENING(DIV, "div") WIDENING(IDIV, "idiv")
    }
    r->rflags = f;
    r->a = a;
    r->hi = hi;
}

int main(void)
{
    static struct record r;

    signal(SIGFPE, on_fault);
    while (fread(&r, sizeof r, 1, stdin) == 1) {
        r.error = sigsetjmp(after_fault, 1);
        if (!r.error)
            run(&r);
        fwrite(&r, sizeof r, 1, stdout);
    }
    return 0;
}
