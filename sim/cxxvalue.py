"""C++ of Amaranth's expressions and statements, over the vectors of ``native/bits.h``.

A value of width W is a ``U<W>`` whose bits above W are 0, signed or not; operands are extended where an operator asks for
it. `need` is how many low bits of a value its user looks at: what is above is not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from amaranth.hdl._ast import Assign, Concat, Const, Operator, Part, Print, Signal, Slice, Switch, SwitchValue

_LOW_BITS = {"+": "add", "-": "sub", "*": "mul", "&": "and_", "|": "or_", "^": "xor_"}
_COMPARE = {"==": ("eq", False, False), "!=": ("eq", False, True), "<": ("lt", False, False),
            ">=": ("lt", False, True), ">": ("lt", True, False), "<=": ("lt", True, True)}


def literal(value: int, width: int) -> str:
    """Return a constant of the given width."""
    value &= (1 << width) - 1
    if width <= 64:
        return f"{value:#x}ul"
    words = [f"{value >> shift & 0xFFFFFFFFFFFFFFFF:#x}ul" for shift in range(0, width, 64)]
    if width <= 128:
        return f"(u128({words[1]}) << 64 | {words[0]})"
    return f"Big<{len(words)}>{{{{{', '.join(words)}}}}}"


class Emitter:
    """Compiles into a list of C++ lines; signals are read as ``d.s<index>`` and assigned as ``n<index>``.

    Signals in `local` (indices) are read where they are assigned. Registers in `direct` are not assigned as variables: their
    next value goes to ``d.x<index>``, if it is another, which ``any`` tells.
    """

    def __init__(self, index_of: Callable[[Signal], int], local: frozenset[int] = frozenset()):
        self.direct: set[int] = set()
        self.lines: list[str] = []
        self._index, self._local = index_of, local
        self._count = 0

    def _temporary(self, width: int, code: str) -> str:
        self._count += 1
        name = f"t{self._count}"
        self.lines.append(f"U<{width}> {name} = {code};")
        return name

    # Values.

    def value(self, value: Any, need: int | None = None) -> str:
        """Return C++ for the low `need` bits (default: all) of a value."""
        width = len(value) if need is None else min(need, len(value))
        if isinstance(value, Const):
            return literal(value.value, width)
        if isinstance(value, Signal):
            index = self._index(value)
            # not copied: a slice of it reads the words that it needs
            name = f"n{index}" if index in self._local else f"d.s{index}"
            return name if width == len(value) else f"slice<0, {width}>({name})"
        if isinstance(value, Operator):
            return self._operator(value, width)
        if isinstance(value, Slice):
            return self._slice(value, width)
        if isinstance(value, Part):
            offset = f"{value.stride}ul * {self.value(value.offset)}"
            source = f"shr<{len(value.value)}>({self.value(value.value)}, {offset})"
            return f"conv<{width}>({source})"
        if isinstance(value, Concat):
            return self._concat(value, width)
        if isinstance(value, SwitchValue):
            return self._switch_value(value, width)
        raise NotImplementedError(f"{type(value).__name__} in an expression")

    def extended(self, value: Any, width: int) -> str:
        """Return a value extended or cut to a width, by its own signedness."""
        if len(value) >= width:
            return self.value(value, width)
        if value.shape().signed:
            return f"sext<{len(value)}, {width}>({self.value(value)})"
        return f"conv<{width}>({self.value(value)})"

    def flag(self, value: Any) -> str:
        """Return a value as a C++ condition."""
        if isinstance(value, Operator) and value.operator in ("b", "r|"):
            return self.flag(value.operands[0])
        return f"nonzero<{len(value)}>({self.value(value)})"

    def _slice(self, value: Slice, width: int) -> str:
        inner, start = value.value, value.start
        while isinstance(inner, Slice):
            start += inner.start
            inner = inner.value
        if isinstance(inner, Concat):
            for part in inner.parts:
                if start + width <= len(part):
                    return self.value(part[start : start + width])
                if start < len(part):
                    break
                start -= len(part)
            start = value.start
            inner = value.value
        source = self.value(inner) if isinstance(inner, Signal) else self.value(inner, start + width)
        return source if width == len(inner) else f"slice<{start}, {width}>({source})"

    def _concat(self, value: Concat, width: int) -> str:
        pieces, offset = [], 0
        for part in value.parts:
            if offset < width and len(part):
                pieces.append((offset, min(len(part), width - offset), part))
            offset += len(part)
        if not pieces:
            return literal(0, width)
        if width <= 64:
            return "(" + " | ".join(f"{self.value(p, n)} << {at}" if at else self.value(p, n) for at, n, p in pieces) + ")"
        name = self._temporary(width, f"U<{width}>{{}}")
        for at, n, part in pieces:
            self.lines.append(f"put<{at}, {n}>({name}, {self.value(part, n)});")
        return name

    def _switch_value(self, value: SwitchValue, width: int) -> str:
        if len(value.test) == 1 and len(value.cases) == 2 and value.cases[1][0] is None and len(value.cases[0][0]) == 1:
            first, other = (self.extended(case, width) for _, case in value.cases)
            if value.cases[0][0][0] == "0":
                first, other = other, first
            return f"({self.flag(value.test)} ? {first} : {other})"
        result = self._temporary(width, f"U<{width}>{{}}")

        def branch(case: Any) -> None:
            self.lines.append(f"{result} = {self.extended(case, width)};")

        self._switch(value.test, value.cases, branch)
        return result

    def _operator(self, value: Operator, width: int) -> str:
        name, operands = value.operator, value.operands
        if len(operands) == 1:
            return self._unary(name, operands[0], width)
        a, b = operands
        if name in _LOW_BITS:
            return f"{_LOW_BITS[name]}<{width}>({self.extended(a, width)}, {self.extended(b, width)})"
        if name in _COMPARE:
            return self._compare(name, a, b)
        if name == "<<":
            return f"shl<{width}>({self.extended(a, width)}, {self.amount(b)})"
        if name == ">>":
            shift = "sar" if a.shape().signed else "shr"
            return f"conv<{width}>({shift}<{len(a)}>({self.value(a)}, {self.amount(b)}))"
        if name in ("//", "%"):
            return self._divide(name, a, b, width)
        raise NotImplementedError(f"operator {name}")

    def _unary(self, name: str, operand: Any, width: int) -> str:
        if name in ("u", "s"):
            return self.value(operand, width)
        if name == "~":
            return f"not_<{width}>({self.extended(operand, width)})"
        if name == "-":
            return f"neg<{width}>({self.extended(operand, width)})"
        if name in ("b", "r|"):
            return f"uint64_t({self.flag(operand)})"
        if name == "r&":
            size = len(operand)
            return f"uint64_t(eq<{size}>({self.value(operand)}, {literal(-1, size)}))"
        if name == "r^":
            return f"uint64_t(parity<{len(operand)}>({self.value(operand)}))"
        raise NotImplementedError(f"operator {name}")

    def amount(self, value: Any) -> str:
        """Return a shift amount as one machine word; more than that is a shift out of everything."""
        if len(value) > 64:
            raise NotImplementedError("a shift amount of more than 64 bits")
        return self.value(value)

    def _compare(self, name: str, a: Any, b: Any) -> str:
        function, swap, negate = _COMPARE[name]
        signed = a.shape().signed or b.shape().signed
        size = max(len(v) + (signed and not v.shape().signed) for v in (a, b))
        left, right = self.extended(a, size), self.extended(b, size)
        if swap:
            left, right = right, left
        if function == "lt" and signed:
            function = "slt"
        return f"uint64_t({'!' * negate}{function}<{size}>({left}, {right}))"

    def _divide(self, name: str, a: Any, b: Any, width: int) -> str:
        if max(len(a), len(b)) > 127:
            raise NotImplementedError("division of more than 127 bits")
        if a.shape().signed or b.shape().signed:
            left, right = (f"__int128({self.extended(v, 128)})" for v in (a, b))
            code = f"u128({'sdiv' if name == '//' else 'smod'}({left}, {right}))"
        else:
            code = f"{'udiv' if name == '//' else 'umod'}({self.value(a)}, {self.value(b)})"
        return f"conv<{width}>({code})"

    # Statements.

    def statements(self, statements: Iterable[Any]) -> None:
        """Compile statements that assign the variables ``n<index>``."""
        for statement in statements:
            if isinstance(statement, Assign):
                self._assign(statement.lhs, self.extended(statement.rhs, len(statement.lhs)))
            elif isinstance(statement, Switch):
                self._switch(statement.test, [case[:2] for case in statement.cases], self.statements)
            elif not isinstance(statement, Print):
                raise NotImplementedError(f"{type(statement).__name__} as a statement")

    def _assign(self, target: Any, code: str) -> None:
        """Assign C++ of the target's width to a target."""
        if isinstance(target, Signal):
            index, width = self._index(target), len(target)
            if index in self.direct:
                name = self._temporary(width, code)
                self.lines.append(f"if (!eq<{width}>(d.s{index}, {name})) {{ d.x{index} = {name}; any = true; }}")
            else:
                self.lines.append(f"n{index} = {code};")
        elif isinstance(target, Operator):
            self._assign(target.operands[0], code)
        elif isinstance(target, Concat):
            name, at = self._temporary(len(target), code), 0
            for part in target.parts:
                if len(part):
                    self._assign(part, f"slice<{at}, {len(part)}>({name})")
                at += len(part)
        elif isinstance(target, SwitchValue):
            name = self._temporary(len(target), code)
            self._switch(
                target.test, target.cases, lambda case: self._assign(case, f"conv<{len(case)}>({name})")
            )
        else:
            self._assign_part(target, code)

    def _assign_part(self, target: Any, code: str) -> None:
        """Assign to a slice or a part (at a variable offset), of a signal in the end."""
        width, start, offset, end = len(target), 0, "", None
        while isinstance(target, (Slice, Part, Operator)):
            if isinstance(target, Slice):
                start += target.start
                end = None if end is None else end + target.start
                target = target.value
            elif isinstance(target, Part):
                if offset:
                    raise NotImplementedError("a part of a part as a target")
                offset = f"{target.stride}ul * {self.value(target.offset)}"
                end = len(target.value)
                target = target.value
            else:
                target = target.operands[0]
        if isinstance(target, (Concat, SwitchValue)):
            raise NotImplementedError("a slice of a concatenation as a target")
        name = f"n{self._index(target)}"
        if offset:
            self.lines.append(f"put_at<{len(target)}, {width}>({name}, {start} + {offset}, {end}, {code});")
        elif width:
            self.lines.append(f"put<{start}, {width}>({name}, {code});")

    def _switch(self, test: Any, cases: Iterable[Any], branch: Callable[[Any], None]) -> None:
        width, cases = len(test), list(cases)
        name = self._temporary(width, self.value(test))
        plain = width <= 64 and all("-" not in p for patterns, _ in cases for p in patterns or ())
        seen: set[str] = set()
        opened = False
        if plain:
            self.lines.append(f"switch ({name}) {{")
        for patterns, body in cases:
            if plain:
                fresh = [p for p in dict.fromkeys(patterns or ()) if p not in seen]
                seen.update(fresh)
                if patterns is not None and not fresh:
                    continue
                labels = " ".join(f"case {int(p or '0', 2):#x}ul:" for p in fresh) if patterns is not None else "default:"
                self.lines.append(f"{labels} {{")
                branch(body)
                self.lines.append("break; }")
            else:
                tests = " || ".join(self._matches(name, width, p) for p in patterns) if patterns is not None else "true"
                self.lines.append(f"{'else ' * opened}if ({tests or 'false'}) {{")
                opened = True
                branch(body)
                self.lines.append("}")
            if patterns is None:
                break
        if plain:
            self.lines.append("}")

    def _matches(self, name: str, width: int, pattern: str) -> str:
        mask = int("".join("0" if bit == "-" else "1" for bit in pattern) or "0", 2)
        bits = int(pattern.replace("-", "0") or "0", 2)
        if not mask:
            return "true"
        return f"eq<{width}>(and_<{width}>({name}, {literal(mask, width)}), {literal(bits, width)})"
