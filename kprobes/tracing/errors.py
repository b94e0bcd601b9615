"""Why a command of the probe-event language is refused: the kernel's code, the place in the command, and a caret.

The identifiers are those of the kernel's error log (kernel/trace/trace_probe.h); the texts are our own. Of the kernel's
list these cannot occur, because they need type information (BTF) of the guest or a second kind of event: NO_RETVAL,
NO_BTFARG, NO_BTF_ENTRY, NO_BTF_FIELD, ARGS_2LONG, ARGIDX_2BIG, TOO_MANY_EARGS, EVENT_EXIST. What asks for type
information is refused as NOSUP_BTFARG, as a kernel that was built without it does.
"""

from __future__ import annotations

import errno
from enum import Enum, unique

from kprobes.errors import KprobeError


@unique
class ErrorCode(Enum):
    """The kernel's identifier, with the errno and what is said about it."""

    BAD_COMMAND = errno.EINVAL, "a command is p[:[GRP/][EVENT]] PLACE [ARG...], r..., or -:[GRP/]EVENT"
    BAD_MAXACT_TYPE = errno.EINVAL, "only a return probe (r) has a number of instances"
    BAD_MAXACT = errno.EINVAL, "the number of instances after r must be a positive integer"
    MAXACT_TOO_BIG = errno.EINVAL, "more than 4096 instances"
    BAD_PROBE_ADDR = errno.EINVAL, "no place to probe: write SYMBOL, SYMBOL+OFFSET, MODULE:SYMBOL or an address"
    NON_UNIQ_SYMBOL = errno.EADDRNOTAVAIL, "several functions have this name: give the address of the one that you mean"
    BAD_RETPROBE = errno.EINVAL, "a return probe goes to the first instruction of a function"
    BAD_ADDR_SUFFIX = errno.EINVAL, "the only suffix of a place is %return"
    NO_GROUP_NAME = errno.EINVAL, "a group name is missing before '/'"
    GROUP_TOO_LONG = errno.EINVAL, "a group name has at most 63 characters"
    BAD_GROUP_NAME = errno.EINVAL, "a group name consists of letters, digits and _, and begins with no digit"
    NO_EVENT_NAME = errno.EINVAL, "an event name is missing after ':'"
    EVENT_TOO_LONG = errno.EINVAL, "an event name has at most 63 characters"
    BAD_EVENT_NAME = errno.EINVAL, "an event name consists of letters, digits and _, and begins with no digit"
    RETVAL_ON_PROBE = errno.EINVAL, "$retval exists on return probes (r) only"
    BAD_STACK_NUM = errno.EINVAL, "$stackN counts the words of a stack: N is at most 2048"
    BAD_ARG_NUM = errno.EINVAL, "$argN counts parameters: N is 1 to 2048"
    BAD_VAR = errno.EINVAL, "no such variable: there are $stack, $stackN, $argN, $retval and $comm"
    BAD_REG_NAME = errno.EINVAL, "no such register: write %di, %ax, %r8 ... as pt_regs names them"
    BAD_MEM_ADDR = errno.EINVAL, "@ is followed by an address or by a symbol that the guest has"
    BAD_IMM = errno.EINVAL, "\\ is followed by an integer or by a string in double quotes"
    IMMSTR_NO_CLOSE = errno.EINVAL, "a closing double quote is missing (a string cannot hold blanks)"
    FILE_ON_KPROBE = errno.EINVAL, "@+OFFSET is a place in a file, which only user-space probes have"
    TOO_MANY_OPS = errno.E2BIG, "more than 12 levels of +OFFSET(...)"
    DEREF_NEED_BRACE = errno.EINVAL, "memory is written +OFFSET(EXPRESSION): the ( is missing"
    BAD_DEREF_OFFS = errno.EINVAL, "the offset before ( must be an integer"
    DEREF_OPEN_BRACE = errno.EINVAL, "a ) is missing"
    COMM_CANT_DEREF = errno.EINVAL, "this is a string and no address: it cannot be inside +OFFSET(...)"
    BAD_FETCH_ARG = errno.EINVAL, "no value: write %REGISTER, $VARIABLE, @ADDRESS, +OFFSET(EXPRESSION) or \\CONSTANT"
    ARRAY_NO_CLOSE = errno.EINVAL, "a ] is missing"
    BAD_ARRAY_SUFFIX = errno.EINVAL, "nothing may follow the ]"
    BAD_ARRAY_NUM = errno.EINVAL, "the number of elements must be a positive integer"
    ARRAY_TOO_BIG = errno.EINVAL, "an array has at most 64 elements"
    BAD_TYPE = errno.EINVAL, (
        "no such type: there are u, s and x with 8, 16, 32 or 64, char, symbol, symstr, string, ustring and "
        "bWIDTH@OFFSET/CONTAINER")
    BAD_STRING = errno.EINVAL, "strings and arrays lie in memory: write +OFFSET(EXPRESSION) or @ADDRESS"
    BAD_SYMSTRING = errno.EINVAL, "symstr names the address in a register, a variable or memory"
    BAD_BITFIELD = errno.EINVAL, (
        "a bit field is bWIDTH@OFFSET/CONTAINER, within a container of 8, 16, 32 or 64 bits")
    NEED_STRING_TYPE = errno.EINVAL, "this value has the type string and no other"
    ARG_NAME_TOO_LONG = errno.EINVAL, "an argument's name has at most 32 characters"
    NO_ARG_NAME = errno.EINVAL, "a name is missing before '='"
    BAD_ARG_NAME = errno.EINVAL, "an argument's name consists of letters, digits and _, and begins with no digit"
    USED_ARG_NAME = errno.EINVAL, "this name is taken, by an argument before it or by a field that every event has"
    ARG_TOO_LONG = errno.EINVAL, "an argument without its name has at most 63 characters"
    NO_ARG_BODY = errno.EINVAL, "a value is missing after '='"
    TOO_MANY_ARGS = errno.E2BIG, "an event has at most 128 arguments"
    BAD_INSN_BNDRY = errno.EILSEQ, "no instruction begins here"
    FAIL_REG_PROBE = errno.EINVAL, "this place cannot be probed"
    DIFF_PROBE_TYPE = errno.EEXIST, "an event of this name exists and is of the other kind, p against r"
    DIFF_ARG_TYPE = errno.EEXIST, "an event of this name exists with other arguments: names and types must be the same"
    SAME_PROBE = errno.EEXIST, "this very probe exists already in this event"
    NOSUP_BTFARG = errno.EOPNOTSUPP, (
        "parameters by name need type information (BTF), which this guest does not have: use $argN or registers")
    BAD_VAR_ARGS = errno.EINVAL, "$arg* stands alone: without name, type or +OFFSET(...)"
    DOUBLE_ARGS = errno.EINVAL, "$arg* may be given once"
    NOFENTRY_ARGS = errno.EINVAL, "$argN and $arg* exist at a function's first instruction and on its return only"
    BAD_HYPHEN = errno.EINVAL, "'-' is only used in NAME->FIELD"
    # Filters (kernel/trace/trace_events_filter.c).
    NO_FILTER = errno.EINVAL, "a filter is FIELD OPERATOR VALUE, joined by && and ||; 0 removes it"
    FIELD_NOT_FOUND = errno.EINVAL, "no such field"
    INVALID_OP = errno.EINVAL, "no such operator: there are ==, !=, <, <=, >, >=, & and ~"
    ILLEGAL_FIELD_OP = errno.EINVAL, "this operator does not go with the type of the field"
    ILLEGAL_INTVAL = errno.EINVAL, "an integer is expected: 10, -1, 0x1f or 'c'"
    EXPECT_STRING = errno.EINVAL, "a string in quotes is expected"
    MISSING_QUOTE = errno.EINVAL, "a closing quote is missing"
    TOO_MANY_OPEN = errno.EINVAL, "a ( without its )"
    TOO_MANY_CLOSE = errno.EINVAL, "a ) without its ("

    def __init__(self, number: int, text: str):
        self.errno = number
        self.text = text

    def __str__(self) -> str:
        return self.name


class ProbeEventError(KprobeError):
    """A command or a filter was refused, and nothing of it exists.

    ``code`` is the kernel's identifier, ``position`` the index in ``command``, which is one line as it was written.
    The message has three lines: what is wrong, the command, and a caret; below them the code around an address that the
    runtime refused.
    """

    def __init__(
        self, code: ErrorCode, command: str, position: int, why: str = "", number: int | None = None, picture: str = "",
    ):
        what = f"{code.name}: {why or code.text}"
        shown = command.replace("\t", " ")
        below = f"\n{picture}" if picture else ""
        super().__init__(code.errno if number is None else number, f"{what}\n  {shown}\n  {' ' * position}^{below}")
        self.code = code
        self.command = command
        self.position = position
