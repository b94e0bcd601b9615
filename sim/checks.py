"""Makes of every `Assert` of a design a bit that says that it fails, so that engines check it like any other signal.

A bit is computed when what it reads changes, like all logic (`sim.lowering`). An engine looks at the bits once a cycle, just
before the clock edge, whatever domain the Assert stands in: between two edges values may pass that mean nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Const, Signal
from amaranth.hdl._ast import Assign, Property, Switch, _StatementList

from sim.simplify import Body

#: Values in a message are at most so wide, and so many.
VALUE_BITS = 64
MAX_VALUES = 16

#: The domain of a `Body` that computes values for messages, when one is wanted.
REPORT = "report"


@dataclass(frozen=True)
class Check:
    """An Assert of a design.

    Members
    -------
    path : of the module in the design, for example ``h0.w.trap``. message : for `str.format`, the name of the invariant first.
    flag, bit : the signal and its bit that is 1 when it fails.
    values, count : a signal of 64 bits for each value in the message, and how many (None and 0 if there are none).
    """

    path: str
    message: str
    flag: Signal
    bit: int
    values: Signal | None
    count: int


def take_checks(bodies: list[Body]) -> list[Check]:
    """Take the Properties out of the bodies, in place, and add bodies that compute the bits and values of the Asserts."""
    checks: list[Check] = []
    more: list[Body] = []
    for body in bodies:
        found: list[Any] = []
        _find(body.statements, found)
        if not found:
            continue
        asserts = [p for p in found if p.kind == Property.Kind.Assert]
        flag = Signal(len(asserts), name="fails")
        bits = {id(p): Assign(flag[bit], ~p.test.bool()) for bit, p in enumerate(asserts)}
        more.append(Body("comb", _only(body.statements, bits), body.path))
        body.statements = _without(body.statements)
        for bit, prop in enumerate(asserts):
            check, report = _check(body.path, prop, flag, bit)
            checks.append(check)
            if report is not None:
                more.append(Body(REPORT, [report], body.path))
    bodies += [body for body in more if body.statements]
    return checks


def _check(path: str, prop: Any, flag: Signal, bit: int) -> tuple[Check, Any]:
    chunks = prop.message._chunks if prop.message is not None else ("an Assert without a name",)
    message, values = "", []
    for chunk in chunks:
        if isinstance(chunk, str):
            message += chunk.replace("{", "{{").replace("}", "}}")
        else:
            value, spec = chunk
            if len(value) > VALUE_BITS or value.shape().signed or spec.endswith("s"):
                raise NotImplementedError(f"{path}: {message!r} has a value that is no unsigned number of 64 bits")
            message += f"{{{len(values)}:{spec}}}"
            values.append(value)
    if len(values) > MAX_VALUES:
        raise NotImplementedError(f"{path}: {message!r} has more than {MAX_VALUES} values")
    if not values:
        return Check(path, message, flag, bit, None, 0), None
    wide = Signal(VALUE_BITS * len(values), name="values")
    numbers = [Cat(value, Const(0, VALUE_BITS - len(value))) for value in values]
    return Check(path, message, flag, bit, wide, len(values)), wide.eq(Cat(numbers))


def _find(statements: Iterable[Any], found: list[Any]) -> None:
    for statement in statements:
        if isinstance(statement, Property):
            found.append(statement)
        elif isinstance(statement, Switch):
            for _, body, _ in statement.cases:
                _find(body, found)


def _cases(switch: Any, cases: list[Any]) -> Any:
    new = copy.copy(switch)
    old = zip(switch.cases, cases, strict=True)
    new._cases = tuple((patterns, _StatementList(body), at) for (patterns, _, at), body in old)
    return new


def _only(statements: Iterable[Any], bits: dict[int, Any]) -> list[Any]:
    """Return the assignments in `bits` (by id of a Property) in the places of the Properties, and nothing else."""
    result = []
    for statement in statements:
        if isinstance(statement, Switch):
            cases = [_only(body, bits) for _, body, _ in statement.cases]
            if any(cases):
                result.append(_cases(statement, cases))
        elif id(statement) in bits:
            result.append(bits[id(statement)])
    return result


def _without(statements: Iterable[Any]) -> list[Any]:
    """Return the statements without Properties."""
    result = []
    for statement in statements:
        if isinstance(statement, Switch):
            result.append(_cases(statement, [_without(body) for _, body, _ in statement.cases]))
        elif not isinstance(statement, Property):
            result.append(statement)
    return result
