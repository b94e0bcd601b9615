"""Strings and memory: lib/string.c, lib/string_helpers.c, lib/glob.c, lib/parser.c, arch/x86/lib."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from sim.kernel.cases.base import At, Call, Case, Mem, room, text

#: Strings that compare, contain and continue each other in every way.
WORDS = ("", "a", "kprobe", "kprobes", "Kprobe", "krpobe", "xkprobe", "the quick brown fox", "12 fox", "\x80\xff high")

#: Spread over alignments and lengths: short moves, word loops, and `rep` paths.
SIZES = (0, 1, 3, 7, 8, 15, 16, 31, 33, 64, 100, 255, 680, 1500)

PATTERN = bytes((i * 37 + i // 256) & 0xFF for i in range(2048))


def _raw(word: str) -> bytes:
    return word.encode("latin-1")


def _lower(data: bytes) -> bytes:
    """The kernel's tolower() knows Latin-1."""
    return bytes(c + 32 if 0x41 <= c <= 0x5A or (0xC0 <= c <= 0xDE and c != 0xD7) else c for c in data)


def _order(a: bytes, b: bytes) -> int:
    return (a > b) - (a < b)


def _delta(a: bytes, b: bytes) -> int:
    """The difference at the first byte that differs, of strings with their NULs."""
    return next((x - y for x, y in zip(a + b"\0", b + b"\0", strict=False) if x != y), 0)


def comparisons() -> Iterator[Case]:
    """Functions of two strings."""
    pairs = [(a, b) for i, a in enumerate(WORDS) for b in WORDS[i : i + 4]]
    for a, b in pairs:
        x, y, name = _raw(a), _raw(b), f"{a!r}, {b!r}"
        yield Case(name, Call("strcmp", text(x), text(y), returns=_order(x, y), bits=32))
        yield Case(name, Call("strcasecmp", text(x), text(y), returns=_delta(_lower(x), _lower(y)), bits=32))
        for n in (0, 2, 6, 40):
            yield Case(f"{name}, {n}", Call("strncmp", text(x), text(y), n, returns=_order(x[:n], y[:n]), bits=32))
            low, high = _lower(x)[:n], _lower(y)[:n]
            known = 0 if not n else _delta(low, high) if low != high else 0
            yield Case(f"{name}, {n}", Call("strncasecmp", text(x), text(y), n, returns=known, bits=32))
        span = next((i for i, c in enumerate(x) if c not in y), len(x))
        other = next((i for i, c in enumerate(x) if c in y), len(x))
        yield Case(name, Call("strspn", text(x), text(y), returns=span))
        yield Case(name, Call("strcspn", text(x), text(y), returns=other))
        one = text(x)
        yield Case(name, Call("strpbrk", one, text(y), returns=At(one, other) if other < len(x) else 0))
        for inner, outer in ((x, y), (y, x)):
            whole, at = text(outer), outer.find(inner)
            yield Case(name, Call("strstr", whole, text(inner), returns=At(whole, at) if at >= 0 else 0))
            at = outer[:5].find(inner)
            yield Case(f"{name}, 5", Call("strnstr", whole, text(inner), 5, returns=At(whole, at) if at >= 0 else 0))
        for first, second in ((x, y), (x, x + b"\n")):
            same = first.removesuffix(b"\n") == second.removesuffix(b"\n")
            yield Case(name, Call("sysfs_streq", text(first), text(second), returns=same, bits=8))


def searches() -> Iterator[Case]:
    """Functions of one string, or of a string and a character."""
    for word in WORDS:
        data = _raw(word)
        yield Case(repr(word), Call("strlen", text(data), returns=len(data)))
        for n in (0, 3, 50):
            yield Case(f"{word!r}, {n}", Call("strnlen", text(data), n, returns=min(n, len(data))))
        for char in (b"k", b"o", b"z", b"\0", b" "):
            name, code = f"{word!r}, {char!r}", char[0]
            whole = data + b"\0"
            at, last = whole.find(char), whole.rfind(char)
            one = text(data)
            yield Case(name, Call("strchr", one, code, returns=At(one, at) if at >= 0 else 0))
            yield Case(name, Call("strchrnul", one, code, returns=At(one, at if at >= 0 else len(data))))
            yield Case(name, Call("strrchr", one, code, returns=At(one, last) if last >= 0 else 0))
            near = whole[:4].find(char)
            yield Case(f"{name}, 4", Call("strnchr", one, 4, code, returns=At(one, near) if near >= 0 else 0))
    for size in SIZES:
        data = Mem(PATTERN[:size] or b"\0", name="data")
        for code in (0, 0x77, PATTERN[size // 2]):
            at = PATTERN[:size].find(code)
            yield Case(f"{size}, {code}", Call("memchr", data, code, size, returns=At(data, at) if at >= 0 else 0))
            yield Case(f"{size}, {code}", Call("memscan", data, code, size, returns=At(data, at if at >= 0 else size)))
            same = Mem(bytes([code]) * size + b"\x01", name="run")
            yield Case(f"{size} equal", Call("memchr_inv", same, code, size, returns=0))
            one = bytearray(bytes([code]) * size + b"\x02")
            one[size * 3 // 4] ^= 0x10
            off = Mem(bytes(one), name="run")
            known = At(off, size * 3 // 4) if size else 0
            yield Case(f"{size} but one", Call("memchr_inv", off, code, size, returns=known))
        changed = bytearray(PATTERN[:size] + b"\0")
        changed[size * 2 // 3] ^= 0x81
        a, b = PATTERN[:size], bytes(changed[:size])
        known = next((x - y for x, y in zip(a, b, strict=True) if x != y), 0)
        # only the sign is defined, and a kernel returns the difference of the bytes
        yield Case(f"{size}", Call("memcmp", Mem(a + b"\0"), Mem(b + b"\0"), size, returns=known, bits=32))
        yield Case(f"{size} equal", Call("memcmp", Mem(a + b"\0"), Mem(a + b"\0"), size, returns=0, bits=32))
        yield Case(f"{size}", Call("bcmp", Mem(a + b"\0"), Mem(a + b"\0"), size, returns=0, bits=32))


def copies() -> Iterator[Case]:
    """Functions that write."""
    for size in SIZES:
        for shift in (0, 3):
            source, name = Mem(PATTERN, name="source"), f"{size} bytes from +{shift}"
            data = PATTERN[shift : shift + size]
            for function in ("__memcpy", "memcpy_orig", "__memmove"):
                target = room(size + 16)
                call = Call(function, At(target, shift), At(source, shift), size, returns=At(target, shift))
                fill = target.data
                yield Case(name, call, after={target: fill[:shift] + data + fill[shift + size :]})
            target = room(size + 16)
            known = target.data[:shift] + b"\x5b" * size + target.data[shift + size :]
            for function in ("__memset", "memset_orig"):
                call = Call(function, At(target, shift), 0x5B, size, returns=At(target, shift))
                yield Case(name, call, after={target: known})
        for to, start in ((0, 5), (5, 0), (9, 1), (0, 64), (64, 0)):
            if size + 64 <= 1500:
                both = Mem(PATTERN[:1600], name="overlapping")
                moved = bytearray(PATTERN[:1600])
                moved[to : to + size] = PATTERN[start : start + size]
                call = Call("__memmove", At(both, to), At(both, start), size, returns=At(both, to))
                yield Case(f"{size} bytes from +{start} to +{to}", call, after={both: bytes(moved)})
    for word in WORDS:
        data = _raw(word)
        target = room(64)
        yield Case(repr(word), Call("strcpy", target, text(data), returns=target), after={target: data + b"\0"})
        yield Case(repr(word), Call("stpcpy", target, text(data), returns=At(target, len(data))), after={target: data + b"\0"})
        joined = text("old ", 64)
        yield Case(repr(word), Call("strcat", joined, text(data), returns=joined), after={joined: b"old " + data + b"\0"})
        for n in (1, 6, 30):
            name = f"{word!r}, {n}"
            call = Call("strncpy", target, text(data), n, returns=target)
            yield Case(name, call, after={target: (data[:n] + bytes(n))[:n] + target.data[n:]})
            cut = data[: n - 1] + b"\0"
            yield Case(name, Call("strlcpy", target, text(data, 16), n, returns=len(data)), after={target: cut})
            for function in ("strscpy", "sized_strscpy"):
                returns = len(data) if len(data) < n else -7  # -E2BIG
                yield Case(name, Call(function, target, text(data, 16), n, returns=returns), after={target: cut})
            call = Call("strncat", joined, text(data), n, returns=joined)
            yield Case(name, call, after={joined: b"old " + data[:n] + b"\0"})
            limit = n + 5
            known = (b"old " + data)[: limit - 1] + b"\0"
            yield Case(name, Call("strlcat", joined, text(data), limit, returns=4 + len(data)), after={joined: known})


def helpers() -> Iterator[Case]:
    """Tokens, patterns, white space."""
    for line in ("a,b;c", ",,x", "none", ""):
        data = text(line)
        cursor, calls, start = Mem(data, name="cursor"), [], 0
        raw = line.encode()
        ends = [i for i, c in enumerate(raw) if c in b",;"]
        for end in [*ends, None]:
            calls.append(Call("strsep", cursor, text(",;"), returns=At(data, start)))
            start = end + 1 if end is not None else start
        calls.append(Call("strsep", cursor, text(",;"), returns=0))
        changed = bytes(0 if c in b",;" else c for c in raw) + b"\0"
        yield Case(repr(line), *calls, after={data: changed, cursor: (0,)})
    for line in ("  \t x y ", "none", "", " \n", "end   "):
        data = text(line)
        front = len(line) - len(line.lstrip())
        yield Case(repr(line), Call("skip_spaces", data, returns=At(data, front)))
        kept = line.rstrip().encode() + b"\0"
        yield Case(repr(line), Call("strim", data, returns=At(data, min(front, len(kept) - 1))), after={data: kept})
        swapped = line.replace(" ", "_").encode() + b"\0"
        yield Case(repr(line), Call("strreplace", data, 0x20, 0x5F), after={data: swapped})
    names = [text(name) for name in ("performance", "powersave", "ondemand", "user")]
    for count, word, known in ((4, "ondemand", 2), (4, "none", -22), (2, "user", -22), (4, "performance", 0)):
        call = Call("match_string", Mem(*names, 0), count, text(word), returns=known, bits=32)
        yield Case(f"{word!r} of {count}", call)
    for pattern, name in (
        ("*", ""), ("", "x"), ("a*b*c", "aXXbYYc"), ("a*b*c", "aXXbYY"), ("[a-c]?z", "bxz"), ("[!a-c]?z", "bxz"),
        ("*.ko", "kvm.ko"), ("pci:v0000*d*", "pci:v00008086d00001234"), ("?", ""), ("a[b", "a[b"), ("**x", "yyx"),
    ):  # fmt: skip
        call = Call("glob_match", text(pattern), text(name), returns=fnmatch.fnmatchcase(name, pattern), bits=8)
        yield Case(f"{pattern!r}, {name!r}", call)
        if "[" not in pattern:
            call = Call("match_wildcard", text(pattern), text(name), returns=fnmatch.fnmatchcase(name, pattern), bits=8)
            yield Case(f"{pattern!r}, {name!r}", call)
    for options, option in (("ro,quiet,noauto", "quiet"), ("ro,quieter", "quiet"), ("", "x"), ("a", "a"), ("b,a", "a")):
        call = Call("parse_option_str", text(options), text(option), returns=option in options.split(","), bits=8)
        yield Case(f"{options!r}, {option!r}", call)


def cases() -> Iterator[Case]:
    """All of them."""
    yield from comparisons()
    yield from searches()
    yield from copies()
    yield from helpers()
