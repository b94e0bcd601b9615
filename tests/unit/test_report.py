"""The cycle breakdown of probe hits, counted from hand-made events, and its HTML page."""

from html.parser import HTMLParser

from sim.cli import htmlreport
from sim.cli.measure import count
from sim.events import Deliver, Iret, ProbePhase, Retire, Trap, TrapPortCall
from sim.report import cells, hits, span, summary

ADDRESS, SLOT = 0x1000, 0x9000


def trap(cycle: int, vector: int, hart: int = 0) -> Trap:
    return Trap(hart, cycle, vector, None, 0, 0, 0)


def phase(cycle: int, name: str, result: int | None = None, hart: int = 0, symbol: str = "f") -> ProbePhase:
    return ProbePhase(hart, cycle, name, ADDRESS, symbol, 0, result, "re-entrant" if name == "miss" else None)


def call(cycle: int, vector: int, hart: int = 0) -> TrapPortCall:
    return TrapPortCall(hart, cycle, vector, 0, 0, 0, True)


def kprobe(at: int, hart: int = 0) -> list:
    """A hit that takes 10 + 20 + 30 cycles, then 5 in the slot, then 11 + 21 + 31."""
    return [
        trap(at, 3, hart), Deliver(hart, at + 10, 0),
        phase(at + 30, "hit", hart=hart), phase(at + 30, "pre", 0, hart), phase(at + 30, "step", hart=hart),
        call(at + 30, 3, hart),
        Iret(hart, at + 60, 0, SLOT, 0),
        trap(at + 65, 1, hart), Deliver(hart, at + 76, 0),
        phase(at + 97, "post", hart=hart), phase(at + 97, "resume", hart=hart), call(at + 97, 1, hart),
        Iret(hart, at + 128, 0, ADDRESS + 1, 0),
    ]  # fmt: skip


def test_phases_of_a_kprobe():
    (hit,) = hits(kprobe(100))
    assert (hit.cycle, hit.symbol, hit.kind, hit.results) == (100, "f", "kprobe", ["pre 0", "post"])
    assert hit.phases() == {"delivery": 21, "stub": 41, "return": 61, "step": 5}
    assert hit.total == 128 == sum(hit.phases().values())
    assert [leg.name for leg in hit.legs] == ["int3", "#DB"]


def test_a_hit_by_a_jump_has_no_trap_and_is_counted():
    """A trap that has nothing to do with it, afterwards, is none of its legs."""
    jump = [phase(50, "hit"), phase(50, "pre", 0), phase(50, "detour"), phase(50, "resume"), call(50, 0x81)]
    other = [trap(60, 14), Deliver(0, 70, 0), call(80, 14), Iret(0, 90, 0, 0, 0)]
    (hit, second) = hits([*jump, *other, *kprobe(100)])
    assert (hit.cycle, hit.total, hit.legs, hit.results, cells(hit)) == (50, None, [], ["pre 0"], [""] * 5)
    assert second.total == 128
    heads = [head for head, _ in summary([hit, second])]
    assert heads == ["f (kprobe, 1 hit, by a jump, without a trap)", "f (kprobe, 1 hit, 128 cycles)"]


def test_returns_belong_to_the_entry():
    events = [*kprobe(100), phase(300, "return"), call(300, 0x80), phase(310, "return"), call(310, 0x80)]
    (hit,) = hits(events)
    assert (hit.kind, hit.returns, hit.results, hit.total) == ("kretprobe", 2, ["pre 0", "post"], 128)
    ((head, lines),) = summary([hit])
    assert head == "f (kretprobe, 1 hit, 128 cycles)" and lines[0] == "2 returns, without a trap"
    assert hits([phase(300, "return")]) == []


def test_hits_of_two_harts_do_not_mix():
    both = sorted(kprobe(100) + kprobe(103, hart=1), key=lambda event: event.cycle)
    assert [(hit.hart, hit.cycle, hit.total) for hit in hits(both)] == [(0, 100, 128), (1, 103, 128)]


def test_a_jprobe_has_four_traps():
    events = [
        trap(0, 3), Deliver(0, 10, 0), phase(20, "hit"), phase(20, "jprobe_entry"), call(20, 3), Iret(0, 40, 0, 0, 0),
        trap(44, 3), Deliver(0, 54, 0), call(64, 3), Iret(0, 84, 0, 0, 0),
        trap(88, 3), Deliver(0, 98, 0), phase(108, "jprobe_return"), phase(108, "step"), call(108, 3), Iret(0, 128, 0, 0, 0),
        trap(135, 1), Deliver(0, 145, 0), phase(155, "resume"), call(155, 1), Iret(0, 175, 0, 0, 0),
    ]  # fmt: skip
    (hit,) = hits(events)
    assert (hit.kind, hit.total, hit.phases()["step"]) == ("jprobe", 175, 4 + 4 + 7)
    ((head, lines),) = summary([hit])
    assert head == "f (jprobe, 1 hit, 175 cycles)"
    assert [line.rpartition("then ")[2] for line in lines[:3]] == ["jprobe handler 4", "jprobe handler 4", "step 7"]


def test_a_trap_that_is_no_hit_is_left_out():
    events = [trap(0, 14), Deliver(0, 10, 0), call(30, 14), Iret(0, 50, 0, 0, 0), *kprobe(100)]
    assert [hit.cycle for hit in hits(events)] == [100]


def test_a_hit_that_the_run_cuts_off():
    (hit,) = hits(kprobe(100)[:6])
    assert hit.total == 30
    assert hit.phases() == {"delivery": 10, "stub": 20, "return": 0, "step": 0}


def test_a_missed_hit_inside_a_hit_is_named():
    events = kprobe(100)
    events.insert(5, phase(130, "miss", symbol="g"))
    (hit,) = hits(events)
    assert hit.results == ["pre 0", "missed g: re-entrant", "post"]


def test_summary_gives_a_range_where_hits_differ():
    longer = kprobe(1000)
    longer[-1] = Iret(0, 1140, 0, ADDRESS + 1, 0)
    ((head, lines),) = summary(hits([*kprobe(100), *longer]))
    assert head == "f (kprobe, 2 hits, 128-140 cycles)"
    assert lines == [
        "int3 delivery 10, stub 20, [runtime], return 30, then step 5",
        "#DB  delivery 11, stub 21, [runtime], return 31-43",
    ]
    assert span([3, 3]) == "3"


def test_the_page_is_whole_and_quotes_what_the_guest_says():
    page = htmlreport.page("a <run>", [("engine", "pysim & co")], "<script>alert(1)</script>", hits(kprobe(100)))
    assert "<script>" not in page
    assert "a &lt;run&gt;" in page and "pysim &amp; co" in page
    assert "http" not in page and "src=" not in page

    class Balance(HTMLParser):
        open: list[str] = []

        def handle_starttag(self, tag, attrs):
            self.open += [] if tag in ("meta", "br") else [tag]

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Balance()
    parser.feed(page)
    assert parser.open == []


def retire(cycle: int, first: bool = True, last: bool = True, delivery: bool = False) -> Retire:
    return Retire(0, cycle, 0, b"\x90", first, last, False, delivery, 0, 2, None, None, None, None)


def test_the_figures_of_bench():
    events = [
        trap(100, 3), retire(105, delivery=True), Deliver(0, 110, 0), retire(113), retire(114),
        retire(150, last=False), retire(158, first=False), Iret(0, 158, 0, SLOT, 0), retire(163),
        trap(164, 1), Deliver(0, 170, 0), retire(172), retire(200, last=False), retire(210, first=False), Iret(0, 210, 0, 0, 0),
        retire(215),
    ]  # fmt: skip
    assert count(events) == {"int3": 13, "iretq": (13 + 15) / 2, "hit": 115}
