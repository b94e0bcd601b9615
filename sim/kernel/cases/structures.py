"""Sorting, trees, lists and queues: lib/sort.c, lib/bsearch.c, lib/list_sort.c, lib/rbtree.c, lib/timerqueue.c, ..."""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator

from sim.kernel.cases.base import At, Call, Case, Mem, Sym, room
from sim.kernel.cases.bits import number

#: Keys that are out of order, with repetitions; in order; in reverse order.
ORDERS = {
    "scattered": [number(n + 1, 32) for n in range(45)],
    "few values": [number(n + 1, 32) % 5 for n in range(30)],
    "in order": list(range(0, 40, 2)),
    "in reverse": list(range(33, 0, -1)),
    "one": [7],
    "none": [],
}


def _words(values: list[int], form: str = "I") -> bytes:
    return struct.pack(f"<{len(values)}{form}", *values)


def sorting() -> Iterator[Case]:
    """Sorting and searching arrays, with a function to compare that is called back."""
    for name, keys in ORDERS.items():
        array = Mem(_words(keys) + bytes(4), name="array")
        call = Call("sort", array, len(keys), 4, Sym("cmp_u32"), 0)
        yield Case(name, call, after={array: _words(sorted(keys))})
        wide = Mem(_words(keys, "Q") + bytes(8), name="array")
        context = 0x55
        call = Call("sort_r", wide, len(keys), 8, Sym("cmp_u64_priv"), 0, Mem(_words([context], "Q")))
        known = sorted(keys, key=lambda key: key ^ context)
        yield Case(name, call, after={wide: _words(known, "Q")})
        ordered = sorted(set(keys))
        array = Mem(_words(ordered) + bytes(4), name="array")
        for key in (*keys[:3], 5, 1 << 31):
            at = bisect.bisect_left(ordered, key)
            found = At(array, 4 * at) if at < len(ordered) and ordered[at] == key else 0
            call = Call("bsearch", Mem(_words([key])), array, len(ordered), 4, Sym("cmp_u32"), returns=found)
            yield Case(f"{key} in {len(ordered)}", call)


def lists() -> Iterator[Case]:
    """Linked lists: next, prev, and a key behind them."""
    for name, keys in ORDERS.items():
        head = Mem(bytes(16), name="head", align=16)
        nodes = [Mem(bytes(16), key, name=f"node {i}", align=16) for i, key in enumerate(keys)]
        ring = [head, *nodes]
        _link(ring)
        order = sorted(range(len(keys)), key=keys.__getitem__)  # both are stable
        ring = [head, *(nodes[i] for i in order)]
        after = {mem: (ring[(i + 1) % len(ring)], ring[i - 1]) for i, mem in enumerate(ring)}
        yield Case(name, Call("list_sort", 0, head, Sym("cmp_list")), after=after)
    for count in (1, 2, 9):
        nodes = [Mem(bytes(8), name=f"node {i}") for i in range(count)]
        head = Mem(bytes(8), name="head")
        calls = [Call("llist_add_batch", node, node, head, returns=i == 0, bits=8) for i, node in enumerate(nodes)]
        stack = nodes[::-1]
        after = {node: (stack[i + 1] if i + 1 < count else 0,) for i, node in enumerate(stack)}
        yield Case(f"{count} added", *calls, after={**after, head: (stack[0],)})
        first = Call("llist_del_first", head, returns=stack[0])
        yield Case(f"first of {count}", *calls, first, after={head: (stack[1] if count > 1 else 0,)})
        known = {node: (nodes[i + 1] if i + 1 < count else 0,) for i, node in enumerate(nodes)}
        yield Case(f"{count} in reverse", *calls, Call("llist_reverse_order", stack[0], returns=nodes[0]), after=known)


def _link(ring: list[Mem]) -> None:
    for i, mem in enumerate(ring):
        mem.parts = (ring[(i + 1) % len(ring)], ring[i - 1], *mem.parts[1:])


def trees() -> Iterator[Case]:
    """Red-black trees, through timerqueue, which brings the search for the place: a node, and when it expires."""
    for name, keys in ORDERS.items():
        if not keys:
            continue
        # a root, and its leftmost node; nodes that are in no tree point to themselves
        head = Mem(bytes(16), name="head")
        nodes = [Mem(bytes(24), key, name=f"node {i}") for i, key in enumerate(keys)]
        for node in nodes:
            node.parts = (node, bytes(16), node.parts[1])
        order = [nodes[i] for i in sorted(range(len(keys)), key=keys.__getitem__)]
        earliest, calls = None, []
        for key, node in zip(keys, nodes, strict=True):
            first = earliest is None or key < earliest
            earliest = key if first else earliest
            calls.append(Call("timerqueue_add", head, node, returns=first, bits=8))
        walk = [Call("rb_first", head, returns=order[0]), Call("rb_last", head, returns=order[-1])]
        follow = [*order[1:], 0]
        walk += [Call("rb_next", node, returns=after) for node, after in zip(order, follow, strict=True)]
        before = [0, *order[:-1]]
        walk += [Call("rb_prev", node, returns=other) for node, other in zip(order, before, strict=True)]
        walk += [Call("timerqueue_iterate_next", node, returns=after) for node, after in zip(order, follow, strict=True)]
        yield Case(f"{len(keys)} {name}", *calls, *walk)
        yield Case(f"{len(keys)} {name}, postorder", *calls, Call("rb_first_postorder", head))
        gone = order[::2]
        left = order[1::2]
        removed = []
        remaining = list(order)
        for node in gone:
            remaining.remove(node)
            removed.append(Call("timerqueue_del", head, node, returns=bool(remaining), bits=8))
        walk = [Call("rb_next", a, returns=b) for a, b in zip(left, [*left[1:], 0], strict=False)]
        ends = Call("rb_first", head, returns=left[0] if left else 0), Call("rb_last", head, returns=left[-1] if left else 0)
        yield Case(f"{len(keys)} {name}, half of them removed", *calls, *removed, *ends, *walk)
        new = Mem(bytes(32), name="new node")
        replace = Call("rb_replace_node", order[0], new, head), Call("rb_first", head, returns=new)
        yield Case(f"{len(keys)} {name}, the first replaced", *calls, *replace)
        erase = [Call("rb_erase", node, head) for node in nodes]
        yield Case(f"{len(keys)} {name}, all erased", *calls, *erase, Call("rb_first", head, returns=0))


def colours() -> Iterator[Case]:
    """The steps of an insertion, one by one: colours and links after a new red node came in."""
    node = Mem(bytes(24), name="only")
    head = Mem(node, name="root")
    yield Case("the root becomes black", Call("rb_insert_color", node, head), after={node: (1, 0, 0), head: (node,)})
    for left in (True, False):
        # grandparent (black) - parent (red) - child (red), in a line: one rotation
        top, middle, bottom = (Mem(bytes(24), name=name) for name in ("top", "middle", "bottom"))
        top.parts = (1, 0, middle) if left else (1, middle, 0)
        middle.parts = (top, 0, bottom) if left else (top, bottom, 0)
        bottom.parts = (middle, 0, 0)
        head = Mem(top, name="root")
        after = {
            head: (middle,),
            middle: (1, top, bottom) if left else (1, bottom, top),
            top: (middle, 0, 0),
            bottom: (middle, 0, 0),
        }
        yield Case(f"a line to the {'left' if left else 'right'}", Call("rb_insert_color", bottom, head), after=after)
        # a bent line: two rotations, the child becomes the root
        middle = Mem(bytes(24), name="middle")
        top, bottom = Mem(bytes(24), name="top"), Mem(bytes(24), name="bottom")
        top.parts = (1, 0, middle) if left else (1, middle, 0)
        middle.parts = (top, bottom, 0) if left else (top, 0, bottom)
        bottom.parts = (middle, 0, 0)
        head = Mem(top, name="root")
        after = {
            head: (bottom,),
            bottom: (1, top, middle) if left else (1, middle, top),
            top: (bottom, 0, 0),
            middle: (bottom, 0, 0),
        }
        yield Case(f"a bend to the {'left' if left else 'right'}", Call("rb_insert_color", bottom, head), after=after)


def intervals() -> Iterator[Case]:
    """The augmented tree: three links, start, last, and the largest last below."""
    spans = [(number(n + 3, 8), number(n + 3, 8) + number(n + 90, 6)) for n in range(24)]
    nodes = [Mem(bytes(24), start, last, bytes(8), name=f"[{start}, {last}]") for start, last in spans]
    head = Mem(bytes(16), name="root")
    calls = [Call("interval_tree_insert", node, head) for node in nodes]
    for start, last in ((0, 255 + 64), (100, 120), (17, 17), (400, 500)):
        hits = sorted((s, i) for i, (s, t) in enumerate(spans) if s <= last and start <= t)
        walk, at = [], Call("interval_tree_iter_first", head, start, last, returns=nodes[hits[0][1]] if hits else 0)
        if len({s for s, _ in hits}) == len(hits):  # equal starts: the order is the tree's
            follow = [nodes[i] for _, i in hits[1:]]
            walk = [
                Call("interval_tree_iter_next", nodes[i], start, last, returns=after)
                for (_, i), after in zip(hits, [*follow, 0], strict=False)
            ]
        else:
            at = Call("interval_tree_iter_first", head, start, last)
        yield Case(f"[{start}, {last}]", *calls, at, *walk)
    for kept in (0, 1, 9):
        gone = nodes[kept:]
        left = min(nodes[:kept], key=lambda node: node.parts[1], default=0)  # type: ignore[arg-type, return-value]
        removed = [Call("interval_tree_remove", node, head) for node in gone]
        first = Call("interval_tree_iter_first", head, 0, 1000, returns=left)
        yield Case(f"{len(gone)} removed", *calls, *removed, first)


def queues() -> Iterator[Case]:
    """A ring buffer: in, out, mask, size of an element, data."""
    for element, count in ((1, 16), (4, 8)):
        fifo, buffer = Mem(bytes(16), 0, name="fifo"), room(element * count)
        data = bytes(range(1, 1 + 3 * count * element))
        first, second, third = count - 3, 5, count
        a, b = data[: first * element], data[first * element :]
        out, out2 = room(element * count), room(element * count)
        yield Case(
            f"{count} of {element}",
            Call("__kfifo_init", fifo, buffer, element * count, element, returns=0, bits=32),
            Call("__kfifo_in", fifo, Mem(a, name="first"), first, returns=first, bits=32),
            Call("__kfifo_out", fifo, out, 4, returns=4, bits=32),
            Call("__kfifo_in", fifo, Mem(b, name="second"), second, returns=second, bits=32),
            Call("__kfifo_out_peek", fifo, out2, 2, returns=2, bits=32),
            Call("__kfifo_out", fifo, out2, third, returns=first - 4 + second, bits=32),
            Call("__kfifo_out", fifo, out2, 1, returns=0, bits=32),
            after={out: a[: 4 * element], out2: a[4 * element :] + b[: second * element]},
        )
    fifo, buffer, out = Mem(bytes(16), 0, name="fifo"), room(32), room(32)
    for size in (1, 2):  # bytes of the length before each record
        for first, second in ((b"hello", b"a longer record"), (b"x", b""), (bytes(12), bytes(range(9)))):
            big = bytes(33 - size - len(first) - len(second) - 2 * size)
            yield Case(
                f"records of {len(first)} and {len(second)}, {size}",
                Call("__kfifo_init", fifo, buffer, 32, 1, returns=0, bits=32),
                Call("__kfifo_in_r", fifo, Mem(first), len(first), size, returns=len(first), bits=32),
                Call("__kfifo_in_r", fifo, Mem(second), len(second), size, returns=len(second), bits=32),
                Call("__kfifo_in_r", fifo, Mem(big, name="too big"), len(big), size, returns=0, bits=32),
                Call("__kfifo_len_r", fifo, size, returns=len(first), bits=32),
                Call("__kfifo_skip_r", fifo, size),
                Call("__kfifo_out_r", fifo, out, 32, size, returns=len(second), bits=32),
                after={out: second},
            )
    yield Case("bad size", Call("__kfifo_init", fifo, buffer, 1, 1, returns=-22, bits=32))


def cases() -> Iterator[Case]:
    """All of them."""
    yield from sorting()
    yield from lists()
    yield from trees()
    yield from colours()
    yield from intervals()
    yield from queues()
