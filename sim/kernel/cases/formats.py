"""Text from numbers and numbers from text: lib/vsprintf.c, lib/kstrtox.c, lib/hexdump.c, lib/cmdline.c, net/core/utils.c."""

from __future__ import annotations

import base64
import ipaddress
import struct
import uuid
from collections.abc import Iterator

from sim.kernel.cases.base import At, Call, Case, Mem, Result, room, text
from sim.kernel.cases.strings import PATTERN

EINVAL, ERANGE = -22, -34


def parsing() -> Iterator[Case]:
    """Numbers from text, strictly and loosely."""
    lines = ("0", "42", "-1", "+7", "0x1F", "0755", "255", "256", "-129", "65536", "4294967296", "12a", "", " 5", "99\n",
             "18446744073709551615", "18446744073709551616", "-9223372036854775808", "0x")  # fmt: skip
    kinds = {
        "kstrtoull": (64, False), "kstrtoll": (64, True), "kstrtouint": (32, False), "kstrtoint": (32, True),
        "kstrtou16": (16, False), "kstrtos16": (16, True), "kstrtou8": (8, False), "kstrtos8": (8, True),
    }  # fmt: skip
    for line in lines:
        for function, (bits, signed) in kinds.items():
            target = room(8)
            error, value = strict(line, bits, signed)
            known = value.to_bytes(bits // 8, "little", signed=signed) if value is not None else target.data
            call = Call(function, text(line), 0, target, returns=error, bits=32)
            yield Case(repr(line), call, after={target: known})
    for line, base in (("123abc", 10), ("123abc", 16), ("0x1fz", 0), ("0777", 0), ("none", 10)):
        digits = "0123456789abcdef"
        body = line.removeprefix("0x") if base in (0, 16) else line
        radix = base or (16 if line.startswith("0x") else 8 if line.startswith("0") else 10)
        count = next((i for i, c in enumerate(body) if c not in digits[:radix]), len(body))
        value, source, end = int(body[:count] or "0", radix), text(line), room(8)
        after = {end: (At(source, len(line) - len(body) + count),)}
        for function in ("simple_strtoull", "simple_strtoul"):
            yield Case(f"{line!r}, {base}", Call(function, source, end, base, returns=value), after=after)
        negative = text("-" + line)
        for function in ("simple_strtoll", "simple_strtol"):
            after = {end: (At(negative, 1 + len(line) - len(body) + count),)}
            yield Case(f"{'-' + line!r}, {base}", Call(function, negative, end, base, returns=-value), after=after)
    for line, known in (("y", 1), ("on", 1), ("1", 1), ("Off", 0), ("N", 0), ("maybe", None), ("o", None)):
        target = room(1)
        call = Call("kstrtobool", text(line), target, returns=0 if known is not None else EINVAL, bits=32)
        yield Case(repr(line), call, after={target: target.data if known is None else bytes([known])})
    sizes = ("64K", 64 << 10, 3), ("2Mx", 2 << 20, 2), ("0x10g", 16 << 30, 5), ("7", 7, 1), ("1T", 1 << 40, 2)
    for line, value, used in sizes:
        source, end = text(line), room(8)
        yield Case(repr(line), Call("memparse", source, end, returns=value), after={end: (At(source, used),)})


def strict(line: str, bits: int, signed: bool) -> tuple[int, int | None]:
    """What kstrto*() make of a line: an error, or the value. A sign, a base by its prefix, one newline at the end."""
    body = line.removesuffix("\n")
    negative = body.startswith("-")
    if negative and not signed:
        return EINVAL, None
    body = body[1:] if body[:1] in ("-", "+") else body
    base = 16 if body[:2] in ("0x", "0X") and body[2:] else 8 if body[:1] == "0" else 10
    body = body[2:] if base == 16 else body
    if not body or any(c not in "0123456789abcdef"[:base] for c in body.lower()):
        return EINVAL, None
    value = -int(body, base) if negative else int(body, base)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return (0, value) if low <= value <= high else (ERANGE, None)


def printing() -> Iterator[Case]:
    """The printf family; Python formats the same."""
    word = text("probe")
    rows: tuple[tuple[str, tuple[int | Mem, ...], str], ...] = (
        ("plain", (), "plain"),
        ("%d %i", (-5, 7), "-5 7"),
        ("%5d|%-5d|%05d|%+d", (42, 42, 42, 42), "   42|42   |00042|+42"),
        ("%u %lu", (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF), "4294967295 18446744073709551615"),
        ("%x %X %#x %08lx", (0xBEEF, 0xBEEF, 0xBEEF, 0xBEEF), "beef BEEF 0xbeef 0000beef"),
        ("%o %#o", (8, 8), "10 010"),
        ("%s|%10s|%-8s|%.3s", (word, word, word, word), "probe|     probe|probe   |pro"),
        ("%c%c%%", (0x41, 0x7A), "Az%"),
        ("%hhd %hd", (0x1FF, 0x18000), "-1 -32768"),
        ("%*d", (6, 42), "    42"),
        ("%lld", (-(1 << 63),), str(-(1 << 63))),
    )
    for form, values, known in rows:
        data = known.encode() + b"\0"
        buffer = room(96)
        call = Call("snprintf", buffer, 96, text(form), *values, returns=len(known), bits=32)
        yield Case(repr(form), call, after={buffer: data})
        call = Call("sprintf", buffer, text(form), *values, returns=len(known), bits=32)
        yield Case(repr(form), call, after={buffer: data})
        cut = data[:7] + b"\0" if len(known) > 7 else data
        call = Call("snprintf", buffer, 8, text(form), *values, returns=len(known), bits=32)
        yield Case(f"{form!r} in 8 bytes", call, after={buffer: cut})
        call = Call("scnprintf", buffer, 8, text(form), *values, returns=len(cut) - 1, bits=32)
        yield Case(f"{form!r} in 8 bytes", call, after={buffer: cut})
    for value in (0, 7, 10, 99999, 12345678901234567890):
        for width in (0, 12):
            buffer, known = room(32), f"{value:{width}d}" if width else str(value)
            call = Call("num_to_str", buffer, 32, value, width, returns=len(known), bits=32)
            yield Case(f"{value}, {width}", call, after={buffer: known.encode()})
    for line, form, values in (("12 0x1f -7", "%d %x %d", (12, 31, -7)), ("3:44", "%d:%d", (3, 44)), ("x", "%d", ())):
        targets = [room(4) for _ in range(form.count("%"))]
        call = Call("sscanf", text(line), text(form), *targets, returns=len(values), bits=32)
        after = {t: struct.pack("<i", v) for t, v in zip(targets, values, strict=False)}
        yield Case(f"{line!r}, {form!r}", call, after=after)
    for error, known in ((-22, "-EINVAL"), (-2, "-ENOENT"), (-512, "-ERESTARTSYS")):
        buffer = room(32)
        yield Case(
            str(error),
            Call("errname", error),
            Call("strcpy", buffer, Result(0), returns=buffer),
            after={buffer: known.encode() + b"\0"},
        )
    for size, block, units, known in ((0, 1, 0, "0 B"), (1500, 1, 0, "1.50 kB"), (1536, 1, 1, "1.50 KiB"),
                                      (8 << 20, 512, 1, "4.00 GiB"), (1 << 40, 1, 0, "1.10 TB")):  # fmt: skip
        buffer = room(32)
        # in the newer interface units are bits, of which 1 is the base 1024, too, and the length is returned
        call = Call("string_get_size", size, block, units, buffer, 32)
        yield Case(f"{size} of {block}, {units}", call, after={buffer: known.encode() + b"\0"})


def bytes_as_text() -> Iterator[Case]:
    """Hexadecimal, base64, escapes, identifiers, addresses."""
    for char in "09afAFgG/: ":
        known = int(char, 16) if char in "0123456789abcdefABCDEF" else -1
        yield Case(repr(char), Call("hex_to_bin", ord(char), returns=known, bits=32))
    for size in (0, 1, 5, 33):
        data, target = PATTERN[7 : 7 + size], room(80)
        call = Call("bin2hex", target, Mem(data + b"\0"), size, returns=At(target, 2 * size))
        yield Case(f"{size} bytes", call, after={target: data.hex().encode() + target.data[: 80 - 2 * size]})
        call = Call("hex2bin", target, text(data.hex().upper()), size, returns=0, bits=32)
        yield Case(f"{size} bytes", call, after={target: data + target.data[: 80 - size]})
        plain = base64.b64encode(data)
        call = Call("base64_encode", Mem(data + b"\0"), size, target, returns=len(plain), bits=32)
        yield Case(f"{size} bytes", call, after={target: plain})
        call = Call("base64_decode", text(plain), len(plain), target, returns=size, bits=32)
        yield Case(f"{size} bytes", call, after={target: data})
        row, group = 16, 1
        line = data[:row]
        known = line.hex(" ").encode().ljust(row * 3) + b" " + bytes(c if 32 <= c < 127 else 0x2E for c in line)
        if size:
            call = Call("hex_dump_to_buffer", Mem(data), size, row, group, target, 80, 1, returns=len(known), bits=32)
            yield Case(f"{size} bytes", call, after={target: known + b"\0"})
    yield Case("no hexadecimal", Call("hex2bin", room(4), text("0g"), 1, returns=EINVAL, bits=32))
    for line, known in ((r"a\tb\n", b"a\tb\n"), (r"\x41\101\\", b"AA\\"), ("plain", b"plain"), (r"\q", rb"\q")):
        target = room(32)
        call = Call("string_unescape", text(line), target, 32, 0xF, returns=len(known), bits=32)
        yield Case(repr(line), call, after={target: known + b"\0"})
    for data, flags, known in ((b"a\tb", 1, rb"a\tb"), (b"\x01\xff", 0x20, rb"\x01\xff"), (b"\x07", 8, rb"\007")):
        target = room(32)
        call = Call("string_escape_mem", Mem(data), len(data), target, 32, flags, 0, returns=len(known), bits=32)
        yield Case(f"{data!r}, {flags:#x}", call, after={target: known})
    for line in ("c33f4995-3701-450e-9fbf-206a2e98e576", "c33f4995-3701-450e-9fbf206a2e98e576", "", "g33f4995"):
        valid = len(line) == 36 and line.count("-") == 4
        yield Case(repr(line), Call("uuid_is_valid", text(line), returns=valid, bits=8))
        for function, form in (("uuid_parse", "bytes"), ("guid_parse", "bytes_le")):
            target = room(16)
            known = getattr(uuid.UUID(line), form) if valid else target.data
            call = Call(function, text(line), target, returns=0 if valid else EINVAL, bits=32)
            yield Case(repr(line), call, after={target: known})
    for line, ok in (("00:1b:44:11:3a:b7", 1), ("00-1b-44-11-3a-b7", 0), ("00:1b:44", 0), ("FF:ff:00:01:02:03", 1)):
        target = room(6)
        known = bytes.fromhex(line.replace(":", "")) if ok else None
        call = Call("mac_pton", text(line), target, returns=ok, bits=8)
        yield Case(repr(line), call, after={target: known} if known else {})
    for line in ("127.0.0.1", "10.20.30.40", "255.255.255.255"):
        packed = ipaddress.IPv4Address(line).packed
        yield Case(line, Call("in_aton", text(line), returns=int.from_bytes(packed, "little"), bits=32))
        source, target, end = text(line), room(4), room(8)
        call = Call("in4_pton", source, -1, target, -1, end, returns=1, bits=32)
        yield Case(line, call, after={target: packed, end: (At(source, len(line)),)})
    for line in ("::1", "fe80::1234:5678", "2001:db8:0:1:2:3:4:5", "::ffff:1.2.3.4", "::"):
        source, target, end = text(line), room(16), room(8)
        call = Call("in6_pton", source, -1, target, -1, end, returns=1, bits=32)
        known = ipaddress.IPv6Address(line).packed
        yield Case(line, call, after={target: known, end: (At(source, len(line)),)})
    yield Case("1:2", Call("in6_pton", text("1:2"), -1, room(16), -1, room(8), returns=0, bits=32))


def unicode() -> Iterator[Case]:
    """UTF-8, UTF-16, UTF-32."""
    for char in "a\xe9\u20ac\U0001f40d":
        data, target = char.encode(), room(8)
        call = Call("utf8_to_utf32", text(data), len(data), target, returns=len(data), bits=32)
        yield Case(repr(char), call, after={target: struct.pack("<I", ord(char))})
        call = Call("utf32_to_utf8", ord(char), target, 8, returns=len(data), bits=32)
        yield Case(repr(char), call, after={target: data})
    for line in ("plain", "na\xefve \u20ac", "\U0001f40d!"):
        data, wide = line.encode(), line.encode("utf-16-le")
        target = room(64)
        call = Call("utf8s_to_utf16s", text(data), len(data), 1, target, 32, returns=len(wide) // 2, bits=32)
        yield Case(repr(line), call, after={target: wide})
        source = Mem(wide + b"\0\0", name="UTF-16")
        call = Call("utf16s_to_utf8s", source, len(wide) // 2, 1, target, 64, returns=len(data), bits=32)
        yield Case(repr(line), call, after={target: data})
        if max(line) < "\U00010000":  # UCS-2 has no more
            yield Case(repr(line), Call("ucs2_strnlen", source, 30, returns=len(line)))
            yield Case(repr(line), Call("ucs2_strlen", source, returns=len(line)))
            yield Case(repr(line), Call("ucs2_strsize", source, 64, returns=2 * len(line)))
            yield Case(repr(line), Call("ucs2_utf8size", source, returns=len(data)))
            call = Call("ucs2_as_utf8", target, source, 64, returns=len(data))
            yield Case(repr(line), call, after={target: data + b"\0"})


def command_line() -> Iterator[Case]:
    """Options as the kernel's command line has them."""
    for line, known in (("3,4,9", [3, 4, 9]), ("1-4,8", [1, 2, 3, 4, 8]), ("", [])):
        source, target = text(line), room(48)
        call = Call("get_options", source, 12, target, returns=At(source, len(line)))
        yield Case(repr(line), call, after={target: struct.pack(f"<{1 + len(known)}i", len(known), *known)})
    source = text('root=/dev/vda quiet opt="two words" last')
    parameter, value = room(8), room(8)
    calls, after = [], 0
    for start, end, middle in ((0, 14, 5), (14, 20, None), (20, 36, 25), (36, 40, None)):
        calls.append(Call("next_arg", At(source, start), parameter, value, returns=At(source, end)))
        after = middle
    yield Case("four options", *calls, after={parameter: (At(source, 36),), value: (after or 0,)})
    for line, name, given, end in (("a=b c", 0, 2, 4), ("only", 0, None, 4), ('"x=1 2" y', 1, 3, 8)):
        source, parameter, value = text(line), room(8), room(8)
        call = Call("next_arg", source, parameter, value, returns=At(source, end))
        after_all = {parameter: (At(source, name),), value: (At(source, given) if given is not None else 0,)}
        yield Case(repr(line), call, after=after_all)
    for line, known, found in (("5,6", 5, 2), ("7", 7, 1), ("1-3", 1, 3), ("x", None, 0)):
        source = text(line)
        cursor, target = Mem(source, name="cursor"), room(4)
        call = Call("get_option", cursor, target, returns=found, bits=32)
        yield Case(repr(line), call, after={target: struct.pack("<i", known)} if known is not None else {})


def cases() -> Iterator[Case]:
    """All of them."""
    yield from parsing()
    yield from printing()
    yield from bytes_as_text()
    yield from unicode()
    yield from command_line()
