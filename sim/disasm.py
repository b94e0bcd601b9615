"""Text for views: the mnemonics, symbols, vectors and stages behind the numbers that ports showed."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Sequence

import capstone

from hw.bus import STAGES
from hw.isa.facts import VECTORS, EventClass, Reg, RFlag

_VECTOR_NAMES = {row.number: row.mnemonic for row in VECTORS}

#: The flags of `flag_text` and of the scope `arch`, highest first.
SHOWN_FLAGS = tuple(RFlag[name] for name in ("OF", "DF", "IF", "TF", "SF", "ZF", "AF", "PF", "CF"))

#: Reads up to so many bytes of guest memory at a virtual address; fewer, or none, where memory ends.
Reader = Callable[[int, int], bytes]
Describer = Callable[[int], str]

MAX_LENGTH = 15


def vector_name(vector: int) -> str:
    """Return "#BP" for 3, and "irq 32" for a vector that has no name."""
    return _VECTOR_NAMES.get(vector, f"irq {vector}")


def class_name(number: int) -> str:
    """Return the name of an `EventClass`, in lower case."""
    return EventClass(number).name.lower() if number in set(EventClass) else str(number)


def register_name(number: int) -> str:
    """Return the name of a register of the file, in lower case."""
    return Reg(number).name.lower() if number in set(Reg) else str(number)


def flag_text(rflags: int) -> str:
    """Return the flags that are set: "ZF PF"."""
    return " ".join(flag.name for flag in SHOWN_FLAGS if rflags >> flag & 1)


class Disassembler:
    """Instructions as text in the syntax of the manuals; jumps and calls to a symbol name it."""

    def __init__(self, describe: Describer = hex):
        self._capstone = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self._describe = describe
        self._known: dict[tuple[int, bytes], str] = {}

    def text(self, pc: int, code: bytes) -> str:
        """Return the instruction that `code` begins with; "(bad)" if none does."""
        key = pc, code
        text = self._known.get(key)
        if text is None:
            text = self._known[key] = self._decode(pc, code)
        return text

    def _decode(self, pc: int, code: bytes) -> str:
        for _, _, mnemonic, operands in self._capstone.disasm_lite(code, pc, 1):
            if mnemonic.startswith(("j", "call", "loop")) and operands.startswith("0x"):
                operands = self._describe(int(operands, 16))
            return f"{mnemonic} {operands}".strip().replace(" ptr ", " ")
        return "(bad)"


class Trace:
    """Samples of ports as columns, and what they mean. All columns have one entry for each of `cycles`.

    `samples` are those of `Engine.drain_samples`, `ports` the names they were asked for with.
    """

    def __init__(
        self,
        ports: Sequence[str],
        samples: Sequence[tuple[int, ...]],
        describe: Describer = hex,
        read: Reader = lambda address, size: b"",
    ):
        columns: Iterable[Sequence[int]] = zip(*samples, strict=True) if samples else [()] * (len(ports) + 1)
        cycles, *values = columns
        self.cycles: Sequence[int] = cycles
        self._columns = dict(zip(ports, values, strict=True))
        self.describe, self._read = describe, read
        self.disassembler = Disassembler(describe)
        self._texts: dict[int, tuple[dict[int, list[int]], dict[int, list[bytes]], dict[int, bytes]]] = {}
        self._deliveries: dict[int, list[int | None]] = {}

    def __getitem__(self, port: str) -> Sequence[int]:
        return self._columns[port]

    def port(self, hart: int, name: str) -> Sequence[int]:
        """Return the column of a port of a hart: ``port(0, "pipe__x_pc")``."""
        return self._columns[f"h{hart}_{name}"]

    def between(self, start: int, end: int) -> tuple[int, int]:
        """Return the indices of the first entry at or after cycle `start`, and of the first at or after `end`."""
        return bisect.bisect_left(self.cycles, start), bisect.bisect_left(self.cycles, end)

    def deliveries(self, hart: int) -> list[int | None]:
        """For each cycle the vector whose delivery is in the pipeline: after its trap, until its last uop retires."""
        if hart not in self._deliveries:
            result, now = [], None
            columns = [self.port(hart, f"retire__{n}") for n in ("trap", "trap_vector", "valid", "last", "deliver")]
            for trap, vector, valid, last, deliver in zip(*columns, strict=True):
                result.append(now)
                if trap:
                    now = vector
                elif valid and last and deliver:
                    now = None
            self._deliveries[hart] = result
        return self._deliveries[hart]

    def code_at(self, hart: int, index: int, pc: int) -> bytes:
        """Return the bytes of the instruction at `pc` that was in the pipeline then.

        They are those with which it reached W next, or else before; of what never reached W, those in memory now.
        """
        if hart not in self._texts:
            self._texts[hart] = self._collect(hart)
        when, what, memory = self._texts[hart]
        if pc in when:
            return what[pc][min(bisect.bisect_left(when[pc], index), len(when[pc]) - 1)]
        if pc not in memory:
            memory[pc] = self._read(pc, MAX_LENGTH)
        return memory[pc]

    def _collect(self, hart: int) -> tuple[dict[int, list[int]], dict[int, list[bytes]], dict[int, bytes]]:
        """The instructions that reached W: by pc, the indices at which they did, and their bytes.

        An instruction that traps does not retire, but W still shows it in that cycle.
        """
        when: dict[int, list[int]] = {}
        what: dict[int, list[bytes]] = {}
        names = ("retire__valid", "retire__deliver", "retire__trap", "pipe__w_valid")
        names += ("pipe__w_pc", "retire__pc", "retire__length", "retire__bytes")
        rows = zip(self.deliveries(hart), *(self.port(hart, name) for name in names), strict=True)
        for index, (delivery, valid, deliver, trap, holds, at, pc, length, code) in enumerate(rows):
            if delivery is None and length and ((valid and not deliver) or (trap and holds and at == pc)):
                when.setdefault(pc, []).append(index)
                what.setdefault(pc, []).append(code.to_bytes(16, "little")[:length])
        return when, what, {}

    def text_at(self, hart: int, index: int, pc: int) -> str:
        """Return the instruction at `pc` that was in the pipeline then, as text."""
        return self.disassembler.text(pc, self.code_at(hart, index, pc))

    # Columns of text; "" where there is nothing to say.

    def stage_text(self, hart: int, stage: str) -> list[str]:
        """What a stage holds: an instruction, or the delivery of a trap."""
        result = []
        delivered = self.deliveries(hart) if stage not in "fl" else [None] * len(self.cycles)
        columns = self.port(hart, f"pipe__{stage}_valid"), self.port(hart, f"pipe__{stage}_pc")
        for index, (delivery, valid, pc) in enumerate(zip(delivered, *columns, strict=True)):
            if not valid:
                result.append("")
            elif delivery is not None:
                result.append(f"deliver {vector_name(delivery)}")
            else:
                result.append(self.text_at(hart, index, pc))
        return result

    def occupancy(self, hart: int) -> list[str]:
        """The stages that hold something, by letter, small where one cannot advance: "F.DAmXW"."""
        columns = [self.port(hart, f"pipe__{s}_{what}") for s in STAGES for what in ("valid", "stall")]
        letters = [(".", ".", stage.upper(), stage) for stage in STAGES]
        known: dict[tuple[int, ...], str] = {}
        result = []
        for row in zip(*columns, strict=True):
            text = known.get(row)
            if text is None:
                text = known[row] = "".join(c[2 * row[2 * i] + row[2 * i + 1]] for i, c in enumerate(letters))
            result.append(text)
        return result

    def retired_text(self, hart: int, form: str) -> list[str]:
        """What retires: as ``asm``, or where it stands as ``sym``; `form` chooses."""
        result = []
        names = ("retire__valid", "retire__deliver", "retire__pc")
        rows = zip(self.deliveries(hart), *(self.port(hart, name) for name in names), strict=True)
        for index, (delivery, valid, deliver, pc) in enumerate(rows):
            if not valid:
                result.append("")
            elif deliver:
                result.append("deliver" if delivery is None else f"deliver {vector_name(delivery)}")
            else:
                result.append(self.text_at(hart, index, pc) if form == "asm" else self.describe(pc))
        return result

    def trap_text(self, hart: int) -> list[str]:
        """The name of a trap, from the cycle in which it is taken to the end of its delivery."""
        rows = zip(
            self.deliveries(hart), self.port(hart, "retire__trap"), self.port(hart, "retire__trap_vector"), strict=True
        )
        names = ((vector if trap else delivery) for delivery, trap, vector in rows)
        return ["" if vector is None else vector_name(vector) for vector in names]
