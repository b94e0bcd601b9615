"""What the execute units compute, in plain Python: values and status flags of one operation.

Written from the manuals (SDM vol. 2), apart from the logic under test. Flags that the manuals leave undefined have the
value that Zen processors give them where these agree; `Outcome.undefined` and `Outcome.varies` name them.
"""

from dataclasses import dataclass

from hw.isa.facts import Op

C, P, A, Z, S, O = 1, 2, 4, 8, 16, 32  # noqa: E741 - the names of the flags, in the order of STATUS_FLAGS
ALL = C | P | A | Z | S | O

ALU = (Op.ADD, Op.OR, Op.ADC, Op.SBB, Op.AND, Op.SUB, Op.XOR, Op.INC, Op.DEC, Op.NOT, Op.NEG)
SHIFTS = (Op.ROL, Op.ROR, Op.RCL, Op.RCR, Op.SHL, Op.SHR, Op.SAR, Op.SHLD, Op.SHRD)
BITS = (Op.BT, Op.BTS, Op.BTR, Op.BTC, Op.BSF, Op.BSR, Op.TZCNT, Op.LZCNT, Op.POPCNT, Op.BSWAP, Op.BITOFF)
ALU_WIDE = (Op.ANDN, Op.ADOX)  # 32 and 64 bits only
BITS_WIDE = (Op.BEXTR, Op.BZHI, Op.BLSR, Op.BLSI, Op.BLSMSK)
SCATTER = (Op.PDEP, Op.PEXT)
MULTIPLY = (Op.IMUL2, Op.MUL, Op.IMUL)
DIVIDE = (Op.DIV, Op.IDIV)


@dataclass(frozen=True)
class Outcome:
    """Result (zero above the operand size), all six flags, and what else the unit shows."""

    result: int
    flags: int
    undefined: int = 0
    varies: int = 0  # undefined flags that processors of one maker differ in, or that we choose otherwise
    keep: bool = False  # all 64 bits of the destination stay
    hi: int = 0  # high half or remainder
    error: bool = False


def signed(value: int, bits: int) -> int:
    """Two's complement of `bits` bits."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def result_flags(value: int, bits: int) -> int:
    """P, Z and S of a value."""
    parity = P if (value & 0xFF).bit_count() % 2 == 0 else 0
    return parity | (0 if value else Z) | (S if value >> (bits - 1) else 0)


def compute(op: Op, size: int, a: int, b: int, flags: int, count: int = 0, hi: int = 0) -> Outcome:
    """One operation. `size` is log2 of the bytes, `hi` the high half of a dividend."""
    bits = 8 << size
    old, old_b, mask = a, b, (1 << bits) - 1
    a &= mask
    b &= mask
    if op in ALU or op in ALU_WIDE:
        return _alu(op, bits, a, b, flags)
    if op in BITS_WIDE:
        return _fields(op, bits, a, b, old_b, flags)
    if op in SCATTER:
        return Outcome(_scatter(op, a, b), flags)
    if op is Op.MOVBE:
        return Outcome(int.from_bytes(b.to_bytes(bits // 8, "little"), "big"), flags)
    if op in (Op.CRC32, Op.CRC32B):
        return Outcome(_crc32c(old & 0xFFFFFFFF, b.to_bytes(bits // 8, "little")), flags)
    if op in SHIFTS:
        return _shift(op, bits, a, b, flags, count & (63 if bits == 64 else 31))
    if op in MULTIPLY:
        return _multiply(op, bits, a, b, flags)
    if op in DIVIDE:
        return _divide(op, bits, old, b, flags, hi)
    if op in (Op.BSF, Op.BSR) and not b:
        return Outcome(old, flags | Z, ALL & ~Z, ALL & ~Z, keep=True)
    return _bits(op, bits, a, b, flags)


def _alu(op: Op, bits: int, a: int, b: int, flags: int) -> Outcome:
    mask, carry = (1 << bits) - 1, flags & C
    if op is Op.NOT:
        return Outcome(a ^ mask, flags)
    if op in (Op.AND, Op.OR, Op.XOR):
        value = {Op.AND: a & b, Op.OR: a | b, Op.XOR: a ^ b}[op]
        return Outcome(value, result_flags(value, bits), A)
    if op is Op.ANDN:
        value = b & ~a
        return Outcome(value, result_flags(value, bits), A | P, A | P)
    if op is Op.ADOX:  # of its flags the instruction writes O alone
        value = a + b + bool(flags & O)
        carry = C | O if value > mask else 0
        carry |= A if (a & 15) + (b & 15) + bool(flags & O) > 15 else 0
        return Outcome(value & mask, result_flags(value & mask, bits) | carry, ALL & ~O, ALL & ~O)
    x, y, c, sign = {
        Op.ADD: (a, b, 0, 1),
        Op.ADC: (a, b, carry, 1),
        Op.SUB: (a, b, 0, -1),
        Op.SBB: (a, b, carry, -1),
        Op.INC: (a, 1, 0, 1),
        Op.DEC: (a, 1, 0, -1),
        Op.NEG: (0, a, 0, -1),
    }[op]
    exact = x + sign * (y + c)
    value = exact & mask
    out = result_flags(value, bits)
    out |= C if exact != value else 0
    out |= A if not 0 <= (x & 15) + sign * ((y & 15) + c) <= 15 else 0
    out |= O if signed(x, bits) + sign * (signed(y, bits) + c) != signed(value, bits) else 0
    if op in (Op.INC, Op.DEC):
        out = out & ~C | carry
    return Outcome(value, out)


def _shift(op: Op, bits: int, a: int, b: int, flags: int, count: int) -> Outcome:
    """Bit by bit, as the manual's operation section has it."""
    if not count:
        return Outcome(a, flags)
    mask, top = (1 << bits) - 1, bits - 1
    value, carry = a, flags & C
    source = b << bits | b  # the second copy is what a count beyond 16 brings in, on silicon
    for _ in range(count):
        low, high = value & 1, value >> top
        if op is Op.ROL:
            value, carry = (value << 1 | high) & mask, high
        elif op is Op.ROR:
            value, carry = value >> 1 | low << top, low
        elif op is Op.RCL:
            value, carry = (value << 1 | carry) & mask, high
        elif op is Op.RCR:
            value, carry = value >> 1 | carry << top, low
        elif op is Op.SHL:
            value, carry = (value << 1) & mask, high
        elif op is Op.SHR:
            value, carry = value >> 1, low
        elif op is Op.SAR:
            value, carry = value >> 1 | high << top, low
        elif op is Op.SHLD:
            value, carry = (value << 1 | source >> (2 * bits - 1)) & mask, high
            source = source << 1 & (1 << 2 * bits) - 1
        else:
            value, carry = value >> 1 | (source & 1) << top, low
            source >>= 1
    msb = value >> top
    left = op in (Op.ROL, Op.RCL, Op.SHL, Op.SHLD)
    overflow = msb ^ (carry if left else value >> (top - 1) & 1)
    out = (C if carry else 0) | (O if overflow else 0)
    undefined = O if count > 1 else 0
    if op in (Op.ROL, Op.ROR, Op.RCL, Op.RCR):
        return Outcome(value, flags & ~(C | O) | out, undefined)
    undefined |= A
    if count >= bits and op in (Op.SHLD, Op.SHRD):
        return Outcome(value, out | result_flags(value, bits) | A, ALL, C | O)
    if count >= bits and op is not Op.SAR:
        undefined |= C
    return Outcome(value, out | result_flags(value, bits) | A, undefined)


def _fields(op: Op, bits: int, a: int, b: int, control: int, flags: int) -> Outcome:
    mask, index = (1 << bits) - 1, control & 0xFF
    if op is Op.BEXTR:
        value = a >> index & (1 << (control >> 8 & 0xFF)) - 1
        return Outcome(value, flags & ~(C | O | Z) | (0 if value else Z), A | P | S, A | P | S)
    value, carry = {
        Op.BZHI: (a & (1 << index) - 1, index >= bits),
        Op.BLSR: (b & b - 1 & mask, not b),
        Op.BLSI: (b & -b, bool(b)),
        Op.BLSMSK: ((b ^ b - 1) & mask, not b),
    }[op]
    out = flags & (A | P) | result_flags(value, bits) & (Z | S) | (C if carry else 0)
    return Outcome(value, out, A | P, A | P)


def _scatter(op: Op, a: int, mask: int) -> int:
    places = [n for n in range(64) if mask >> n & 1]
    if op is Op.PEXT:
        return sum((a >> place & 1) << n for n, place in enumerate(places))
    return sum((a >> n & 1) << place for n, place in enumerate(places))


def _crc32c(crc: int, data: bytes) -> int:
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def _bits(op: Op, bits: int, a: int, b: int, flags: int) -> Outcome:
    if op is Op.BSWAP:
        swapped = int.from_bytes(b.to_bytes(bits // 8, "little"), "big")
        return Outcome(swapped if bits >= 32 else 0, flags)
    if op is Op.BITOFF:
        return Outcome((signed(b, bits) // bits * (bits // 8)) & (1 << 64) - 1, flags)
    if op in (Op.BT, Op.BTS, Op.BTR, Op.BTC):
        bit = 1 << b % bits
        value = {Op.BT: a, Op.BTS: a | bit, Op.BTR: a & ~bit, Op.BTC: a ^ bit}[op]
        return Outcome(value, flags & ~C | (C if a & bit else 0), ALL & ~(C | Z))
    if op in (Op.BSF, Op.BSR):
        value = (b & -b if op is Op.BSF else b).bit_length() - 1
        return Outcome(value, flags & ~Z, ALL & ~Z, ALL & ~Z)
    if op is Op.POPCNT:
        return Outcome(b.bit_count(), 0 if b else Z)
    value = bits - b.bit_length()
    if op is Op.TZCNT and b:
        value = (b & -b).bit_length() - 1
    return Outcome(value, flags & O | (Z if not value else 0) | (0 if b else C), ALL & ~(C | Z))


def _multiply(op: Op, bits: int, a: int, b: int, flags: int) -> Outcome:
    mask = (1 << bits) - 1
    if op is Op.MUL:
        product = a * b
        significant = product > mask
    else:
        product = signed(a, bits) * signed(b, bits)
        significant = signed(product, bits) != product
    product &= (1 << 2 * bits) - 1
    result = product if bits == 8 and op is not Op.IMUL2 else product & mask
    out = flags & ~(C | O) | (C | O if significant else 0)
    return Outcome(result, out, ALL & ~(C | O), hi=product >> bits)


def _divide(op: Op, bits: int, a: int, b: int, flags: int, hi: int) -> Outcome:
    mask = (1 << bits) - 1
    dividend = a & 0xFFFF if bits == 8 else (hi & mask) << bits | a & mask
    failed = Outcome(0, flags, ALL, ALL, error=True)
    if not b:
        return failed
    if op is Op.DIV:
        quotient, remainder = divmod(dividend, b)
        fits = quotient <= mask
    else:
        dividend, divisor = signed(dividend, 2 * bits), signed(b, bits)
        quotient = abs(dividend) // abs(divisor) * (1 if (dividend < 0) == (divisor < 0) else -1)
        remainder = dividend - quotient * divisor
        fits = signed(quotient, bits) == quotient
    if not fits:
        return failed
    quotient, remainder = quotient & mask, remainder & mask
    result = remainder << 8 | quotient if bits == 8 else quotient
    return Outcome(result, flags, ALL, ALL & ~(C | O), hi=remainder)
