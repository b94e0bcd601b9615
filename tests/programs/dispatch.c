/* A byte-code interpreter (jump table of a dense switch) beside a table of function pointers: indirect branches. */
#include "guest.h"

#ifndef N
#define N 40
#endif

enum { PUSH, ADD, SUB, MUL, DUP, SWAP, XOR, ROT, DEC, JNZ, CALL, HALT };

/* Counts the loop variable at the bottom of the stack down to zero, changing the accumulator above it. */
static const uint8_t code[] = {
	PUSH, N, PUSH, 3,                            /* counter, accumulator */
	DUP, PUSH, 17, MUL, ADD, CALL, 0, CALL, 1,   /* 4: loop */
	PUSH, 29, XOR, ROT, CALL, 2, CALL, 3,
	SWAP, DEC, DUP, PUSH, 0, SUB, JNZ, 4, HALT,
};

static uint64_t square(uint64_t x) { return x * x + 1; }
static uint64_t mix(uint64_t x) { return x ^ x >> 29; }
static uint64_t halve(uint64_t x) { return x / 2 + (x & 1); }
static uint64_t negate(uint64_t x) { return -x; }

static uint64_t (*const functions[])(uint64_t) = { square, mix, halve, negate };

static noinline uint64_t interpret(const uint8_t *pc)
{
	uint64_t stack[8] = { 0 }, *sp = stack, t;

	for (;;) {
		switch (*pc++) {
		case PUSH: *sp++ = *pc++; break;
		case ADD:  sp--; sp[-1] += sp[0]; break;
		case SUB:  sp--; sp[-1] -= sp[0]; break;
		case MUL:  sp--; sp[-1] *= sp[0]; break;
		case DUP:  *sp = sp[-1]; sp++; break;
		case SWAP: t = sp[-1]; sp[-1] = sp[-2]; sp[-2] = t; break;
		case XOR:  sp--; sp[-1] ^= sp[0]; break;
		case ROT:  sp[-1] = sp[-1] << 13 | sp[-1] >> 51; break;
		case DEC:  sp[-1]--; break;
		case CALL: sp[-1] = functions[*pc++](sp[-1]); break;
		case JNZ:
			t = *--sp;
			pc = t ? code + *pc : pc + 1;
			t = sp[-1], sp[-1] = sp[-2], sp[-2] = t;
			break;
		default:
			return sp[-1] ^ sp[-2];
		}
	}
}

int main(void)
{
	uint64_t result = interpret(code);

	report("dispatch", fold((uint32_t)result, (uint32_t)(result >> 32)));
	return 0;
}
