// Arithmetic on bit vectors of any width, for the C++ that sim/cxxvalue.py writes. A value of W bits is a U<W>: one or two
// machine words, or an array of words; bits above W are 0.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

typedef unsigned __int128 u128;

template<int N> struct Big {
	uint64_t w[N];
};

template<int W>
using U = std::conditional_t<(W <= 64), uint64_t, std::conditional_t<(W <= 128), u128, Big<(W + 63) / 64>>>;

#define INLINE __attribute__((always_inline)) static inline

template<class T> constexpr int words_of = sizeof(T) / 8;

// Word i of a value, 0 above its end.
INLINE uint64_t word(uint64_t x, int i) { return i == 0 ? x : 0; }
INLINE uint64_t word(u128 x, int i) { return i == 0 ? uint64_t(x) : i == 1 ? uint64_t(x >> 64) : 0; }
template<int N> INLINE uint64_t word(const Big<N> &x, int i) { return i < N ? x.w[i] : 0; }

constexpr uint64_t low_mask(int bits) { return bits >= 64 ? ~uint64_t(0) : bits <= 0 ? 0 : (uint64_t(1) << bits) - 1; }

// Another width: the low W bits, or zeros above.
template<int W, class T> INLINE U<W> conv(const T &x)
{
	if constexpr (W <= 64) {
		return word(x, 0) & low_mask(W);
	} else if constexpr (W <= 128) {
		return word(x, 0) | u128(word(x, 1) & low_mask(W - 64)) << 64;
	} else {
		U<W> r;
		for (int i = 0; i < words_of<U<W>>; i++)
			r.w[i] = word(x, i) & low_mask(W - 64 * i);
		return r;
	}
}

// The sign of the FROM-bit value x in all bits up to TO.
template<int FROM, int TO, class T> INLINE U<TO> sext(const T &x)
{
	if constexpr (TO <= FROM) {
		return conv<TO>(x);
	} else if constexpr (TO <= 64) {
		return uint64_t(int64_t(x << (64 - FROM)) >> (64 - FROM)) & low_mask(TO);
	} else {
		Big<(TO + 63) / 64> r;
		bool negative = word(x, (FROM - 1) / 64) >> ((FROM - 1) % 64) & 1;
		for (int i = 0; i < (TO + 63) / 64; i++)
			r.w[i] = word(x, i) | (negative ? ~low_mask(FROM - 64 * i) : 0);
		return conv<TO>(r);
	}
}

template<int W, class T> INLINE U<W> not_(const T &x)
{
	if constexpr (W <= 128) {
		return conv<W>(U<W>(~x));
	} else {
		U<W> r;
		for (int i = 0; i < words_of<U<W>>; i++)
			r.w[i] = ~x.w[i];
		return conv<W>(r);
	}
}

#define BITWISE(name, op) \
	template<int W, class T> INLINE U<W> name(const T &a, const T &b) \
	{ \
		if constexpr (W <= 128) { \
			return a op b; \
		} else { \
			U<W> r; \
			for (int i = 0; i < words_of<U<W>>; i++) \
				r.w[i] = a.w[i] op b.w[i]; \
			return r; \
		} \
	}
BITWISE(and_, &)
BITWISE(or_, |)
BITWISE(xor_, ^)

template<int W, class T> INLINE U<W> add(const T &a, const T &b)
{
	if constexpr (W <= 128) {
		return conv<W>(U<W>(a + b));
	} else {
		U<W> r;
		uint64_t carry = 0;
		for (int i = 0; i < words_of<U<W>>; i++) {
			u128 sum = u128(a.w[i]) + b.w[i] + carry;
			r.w[i] = uint64_t(sum);
			carry = uint64_t(sum >> 64);
		}
		return conv<W>(r);
	}
}

template<int W, class T> INLINE U<W> neg(const T &a) { return add<W>(not_<W>(a), conv<W>(uint64_t(1))); }

template<int W, class T> INLINE U<W> sub(const T &a, const T &b)
{
	if constexpr (W <= 128)
		return conv<W>(U<W>(a - b));
	else
		return add<W>(a, neg<W>(b));
}

template<int W, class T> INLINE U<W> mul(const T &a, const T &b)
{
	if constexpr (W <= 128) {
		return conv<W>(U<W>(a * b));
	} else {
		U<W> r{};
		for (int i = 0; i < words_of<U<W>>; i++) {
			uint64_t carry = 0;
			for (int j = 0; i + j < words_of<U<W>>; j++) {
				u128 sum = u128(a.w[i]) * b.w[j] + r.w[i + j] + carry;
				r.w[i + j] = uint64_t(sum);
				carry = uint64_t(sum >> 64);
			}
		}
		return conv<W>(r);
	}
}

// Shifts of a W-bit value; any amount.
template<int W, class T> INLINE U<W> shl(const T &x, uint64_t n)
{
	if (n >= W)
		return U<W>{};
	if constexpr (W <= 128) {
		return conv<W>(U<W>(x << n));
	} else {
		U<W> r;
		int skip = int(n / 64), bits = int(n % 64);
		for (int i = 0; i < words_of<U<W>>; i++) {
			uint64_t high = i >= skip ? x.w[i - skip] : 0, low = i > skip ? x.w[i - skip - 1] : 0;
			r.w[i] = bits ? high << bits | low >> (64 - bits) : high;
		}
		return conv<W>(r);
	}
}

template<int W, class T> INLINE U<W> shr(const T &x, uint64_t n)
{
	if (n >= W)
		return U<W>{};
	if constexpr (W <= 128) {
		return x >> n;
	} else {
		U<W> r;
		int skip = int(n / 64), bits = int(n % 64);
		for (int i = 0; i < words_of<U<W>>; i++) {
			uint64_t low = word(x, i + skip), high = word(x, i + skip + 1);
			r.w[i] = bits ? low >> bits | high << (64 - bits) : low;
		}
		return r;
	}
}

// Arithmetic shift right.
template<int W, class T> INLINE U<W> sar(const T &x, uint64_t n)
{
	bool negative = word(x, (W - 1) / 64) >> ((W - 1) % 64) & 1;
	if (n > W - 1)
		n = W - 1;
	U<W> r = shr<W>(x, n);
	return negative && n ? or_<W>(r, shl<W>(not_<W>(U<W>{}), W - n)) : r;
}

template<int W, class T> INLINE bool nonzero(const T &x)
{
	if constexpr (W <= 128) {
		return x != 0;
	} else {
		uint64_t any = 0;
		for (int i = 0; i < words_of<U<W>>; i++)
			any |= x.w[i];
		return any != 0;
	}
}

template<int W, class T> INLINE bool eq(const T &a, const T &b)
{
	if constexpr (W <= 128)
		return a == b;
	else
		return !nonzero<W>(xor_<W>(a, b));
}

template<int W, class T> INLINE bool lt(const T &a, const T &b)
{
	if constexpr (W <= 128) {
		return a < b;
	} else {
		for (int i = words_of<U<W>> - 1; i >= 0; i--)
			if (a.w[i] != b.w[i])
				return a.w[i] < b.w[i];
		return false;
	}
}

// Two's complement order: the sign bit is turned over.
template<int W, class T> INLINE bool slt(const T &a, const T &b)
{
	U<W> top = shl<W>(conv<W>(uint64_t(1)), W - 1);
	return lt<W>(xor_<W>(a, top), xor_<W>(b, top));
}

template<int W, class T> INLINE bool parity(const T &x)
{
	uint64_t all = 0;
	for (int i = 0; i < words_of<U<W>>; i++)
		all ^= word(x, i);
	return __builtin_parityll(all);
}

// Bits START to START + LEN - 1.
template<int START, int LEN, class T> INLINE U<LEN> slice(const T &x)
{
	if constexpr (sizeof(T) <= 16) {
		return conv<LEN>(T(x >> START));
	} else if constexpr (LEN <= 64) {
		uint64_t low = word(x, START / 64) >> (START % 64);
		if constexpr (START % 64 + LEN > 64)
			low |= word(x, START / 64 + 1) << (64 - START % 64);
		return low & low_mask(LEN);
	} else {
		U<LEN> r;
		uint64_t *to = reinterpret_cast<uint64_t *>(&r);
#pragma GCC unroll 16
		for (int i = 0; i < words_of<U<LEN>>; i++) {
			uint64_t low = word(x, START / 64 + i) >> (START % 64);
			if (START % 64)
				low |= word(x, START / 64 + i + 1) << ((64 - START % 64) & 63);
			to[i] = low & low_mask(LEN - 64 * i);
		}
		return r;
	}
}

// x with its bits START to START + LEN - 1 replaced by v.
template<int START, int LEN, class T, class V> INLINE void put(T &x, const V &v)
{
	if constexpr (sizeof(T) <= 16) {
		T mask = (LEN >= int(sizeof(T) * 8) ? ~T(0) : (T(1) << LEN) - 1) << START;
		x = (x & ~mask) | (conv<int(sizeof(T) * 8)>(v) << START & mask);
	} else {
		// Word by word of v, each into one or two words of x.
		constexpr int shift = START % 64;
#pragma GCC unroll 16
		for (int i = 0; i < (LEN + 63) / 64; i++) {
			int left = LEN - 64 * i, at = START / 64 + i;
			x.w[at] = (x.w[at] & ~(low_mask(left) << shift)) | word(v, i) << shift;
			if (shift && shift + left > 64)
				x.w[at + 1] = (x.w[at + 1] & ~low_mask(shift + left - 64)) | word(v, i) >> ((64 - shift) & 63);
		}
	}
}

// The same at a position known only at run time; nothing is written from bit `end` on. W: width of x.
template<int W, int LEN, class T, class V> INLINE void put_at(T &x, uint64_t start, int end, const V &v)
{
	if (start >= uint64_t(end))
		return;
	U<W> ones = shl<W>(conv<W>(not_<LEN>(U<LEN>{})), start), bits = shl<W>(conv<W>(v), start);
	U<W> below = end >= W ? not_<W>(U<W>{}) : sub<W>(shl<W>(conv<W>(uint64_t(1)), end), conv<W>(uint64_t(1)));
	ones = and_<W>(ones, below);
	x = or_<W>(and_<W>(x, not_<W>(ones)), and_<W>(bits, ones));
}

INLINE u128 udiv(u128 a, u128 b) { return b ? a / b : 0; }
INLINE u128 umod(u128 a, u128 b) { return b ? a % b : 0; }

// Division that rounds down, as Python's; 0 for a divisor of 0.
INLINE __int128 sdiv(__int128 a, __int128 b)
{
	if (!b)
		return 0;
	__int128 q = a / b;
	return q - ((a % b != 0) && ((a < 0) != (b < 0)));
}
INLINE __int128 smod(__int128 a, __int128 b) { return b ? a - sdiv(a, b) * b : 0; }
