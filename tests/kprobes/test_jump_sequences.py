"""Random sequences of everything that moves a jump: after each step every probe is hit exactly when it should be."""

import random

import pytest

from kprobes import Kprobe, KprobeFlag, Options
from tests.kprobes.fakemachine import DATA, HOME, FakeMachine

INSNS = (
    "push rbp", "mov rbp, rsp", "mov rax, rdi", "add rax, 5", "xor ecx, ecx", "lea rdx, [rip + cell]", "add rax, [rdx]",
    "nop", "mov r8d, 0x12345678", "inc rcx", "push rax", "pop rax", "add rax, rcx", "pop rbp", "ret",
)
SOURCE = "func f\n" + "\n".join(f"i{n}: {text}" for n, text in enumerate(INSNS)) + """
endf f
func idle
1:  dec rdi
    jne 1b
    ret
endf idle
.data
cell: .quad 1000
"""
RESULT = 1006


class Sequence:
    """One machine, and what every probe's counters have to be."""

    def __init__(self, seed, options):
        self.random = random.Random(seed)
        self.m = FakeMachine(SOURCE, options=options)
        self.text = {page: data for page, data in self.m.snapshot().items() if page < DATA}
        self.live, self.wanted, self.posts, self.log = [], {}, {}, []

    def register(self):
        n = self.random.randrange(len(INSNS))
        post = self.random.random() < 0.2
        p = Kprobe(addr=self.m[f"i{n}"], pre_handler=lambda p, regs: None, flags=KprobeFlag.DISABLED * (self.random.random() < 0.2))
        if post:
            p.post_handler = lambda p, regs, flags: self.posts.__setitem__(p, self.posts[p] + 1)
        self.posts[p] = 0
        self.m.kprobes.register_kprobe(p)
        self.live.append(p)
        self.wanted[p] = 0

    def unregister(self):
        if self.live:
            self.m.kprobes.unregister_kprobe(self.live.pop(self.random.randrange(len(self.live))))

    def disable(self):
        if self.live:
            self.m.kprobes.disable_kprobe(self.random.choice(self.live))

    def enable(self):
        if self.live:
            self.m.kprobes.enable_kprobe(self.random.choice(self.live))

    def switch(self):
        self.m.kprobes.enabled = not self.m.kprobes.enabled

    def optimization(self):
        self.m.kprobes.optimization = not self.m.kprobes.optimization

    def wait(self):
        self.m.call("idle", self.random.choice((1, 5, 30, 60)))

    def now(self):
        self.m.kprobes.wait_for_optimizer()

    def call(self):
        assert self.m.call("f", 0) == RESULT
        for p in self.live:
            self.wanted[p] += self.m.kprobes.enabled and not p.disabled
        for p, hits in self.wanted.items():
            assert p.hits == hits and not p.nmissed, (self.log, hex(p.addr or 0))
            assert p.post_handler is None or self.posts[p] == hits, self.log

    def interrupted(self):
        """Stop f somewhere, do something else, and let it go on: no result may change."""
        self.m.start("f", 0)
        for _ in range(self.random.randrange(60)):
            if self.m.cpu[0].regs.ip != HOME:
                self.m.step()
        self.step(self.random.choice((self.register, self.unregister, self.disable, self.enable, self.switch, self.optimization, self.now)))
        self.m.run()
        assert self.m.cpu[0].regs.ax == RESULT, self.log
        for p in self.wanted:
            assert not p.nmissed
            self.wanted[p] = p.hits
            self.posts[p] = p.hits

    def step(self, action):
        self.log.append(action.__name__)
        action()

    def finish(self):
        while self.live:
            self.unregister()
        self.now()
        self.now()
        assert all(self.m.snapshot()[page] == data for page, data in self.text.items()), self.log
        assert not any(any(self.m.read(page, 4096)) for page in set(self.m.allocated) - set(self.m.freed)), self.log
        assert self.m.kprobes.deadline is None


@pytest.mark.parametrize("options", [
    Options(optimize=True, optimize_delay=20), Options(optimize=True, optimize_delay=3, boost=True),
    Options(optimize=True, optimize_delay=20, step="int3", boost=True)], ids=["tf", "boost", "int3"])
@pytest.mark.parametrize("seed", range(8))
def test_every_probe_is_hit_when_it_should_be(seed, options):
    s = Sequence(seed, options)
    actions = [s.register] * 4 + [s.unregister] * 2 + [s.disable, s.enable, s.enable, s.wait, s.wait, s.now, s.switch, s.switch, s.optimization,
               s.optimization, s.interrupted, s.interrupted]
    for _ in range(40):
        s.step(s.random.choice(actions))
        s.call()
    s.finish()
