"""Every kind of instruction, stepped out of line, does what it does in place (scenarios I01 to I55)."""

import errno
import re
import subprocess

import pytest

from kprobes import Kprobe, KprobeError, Rule
from tests.kprobes.fakecpu import CF, IF, OF, PF, SF, TF, ZF
from tests.kprobes.fakemachine import DATA, HOME, STACK, STACK_SIZE, FakeMachine, UnhandledTrap

pytestmark = pytest.mark.usefixtures("every_mode")


def run(body, *, probes=(), flags=IF, setup=None, data="", limit=500):
    """Run function ``f`` on a fresh machine with probes at labels; return machine, probes, and what they saw."""
    m = FakeMachine(f"{body}\n.data\n{data}\nroom: .fill 64, 8, 0\n")
    seen = []
    planted = []
    for label in probes:
        p = Kprobe(addr=m[label] if isinstance(label, str) else label,
                   pre_handler=lambda p, regs: seen.append(("pre", regs.ip - 1)),
                   post_handler=lambda p, regs, flags: seen.append(("post", regs.ip, regs.flags)))
        m.kprobes.register_kprobe(p)
        planted.append(p)
    regs = m.start("f", m["room"], flags=flags)
    if setup:
        setup(m, regs)
    m.guest_trap[1] = lambda m, trap: None
    m.run(limit=limit)
    return m, planted, seen


def live(m):
    """Return memory without text and without the dead part of the stack, where the frames of traps were."""
    pages = {page: data for page, data in m.snapshot().items() if page >= DATA and page < HOME}
    sp = m.cpu[0].regs.sp
    return {page: data if page >= STACK or page < STACK - STACK_SIZE else data[max(0, sp - page):]
            for page, data in pages.items()}


def same(body, hits=1, **options):
    """The probed run ends with the registers and the memory of the plain one; return machine, probe and sightings."""
    plain, _, _ = run(body, **options)
    m, (p,), seen = run(body, probes=("at",), **options)
    assert m.cpu[0].regs == plain.cpu[0].regs
    assert live(m) == live(plain)
    assert p.hits == hits and m.kprobes.kprobe_running(0) is None
    return m, p, seen


def refused_by_int3(mode, body, words):
    """In step "int3": neither emulated nor stepped, so it is refused (prepare_emulation); whether that is so here."""
    if mode.step != "int3":
        return False
    m = FakeMachine(body)
    before = m.snapshot()
    with pytest.raises(KprobeError, match=re.escape(words)) as info:
        m.kprobes.register_kprobe(Kprobe(addr=m["at"]))
    assert info.value.errno == errno.EOPNOTSUPP and info.value.rule is Rule.EMULATION and m.snapshot() == before
    return True


def func(body, more=""):
    return f"func f\n{body}\nret\nendf f\n{more}"


CALLEE = "func g\nmov rbx, [rsp]\nmov r12, 77\nret\nendf g\n"
LEAF = CALLEE


@pytest.mark.parametrize(("insn", "length"), [
    (".byte 0xe8; .long g - . - 4", 5),                  # I01
    (".byte 0x66, 0xe8; .long g - . - 4", 6),            # I02
    (".byte 0xf2, 0xe8; .long g - . - 4", 6),
    (".byte 0x48, 0xe8; .long g - . - 4", 6),
    (".byte 0x66, 0x48, 0xe8; .long g - . - 4", 7),
    ("call rax", 2),                                     # I03
    ("call r11", 3),                                     # I04
    ("call [rdi+8]", 3),                                 # I06
    ("call [rip+pointer]", 6),                           # I45
    ("call [rdi+rcx*8]", 3),
    (".byte 0x3e; call rax", 3),
])
def test_I01_to_I06_calls(insn, length):
    def setup(m, regs):
        regs.ax = regs.r11 = m["g"]
        regs.cx = 1
        m.memory.store(m["room"] + 8, m["g"], 8)

    m, p, seen = same(func(f"nop\nat: {insn}\nmov rcx, 1", LEAF), setup=setup, data="pointer: .quad g")
    regs = m.cpu[0].regs
    assert regs.bx == p.addr + length, "the return address that the callee saw"
    assert regs.r12 == 77 and seen[1][1] == m["g"]


def test_I05_call_through_rsp():
    def setup(m, regs):
        code = bytes.fromhex("c3")
        regs.sp -= 64
        m.memory.store(regs.sp + 0, HOME, 8)
        m.memory.store(regs.sp + 32, int.from_bytes(code, "little"), 8)

    m = FakeMachine("func f\nat: call rsp\nendf f")
    m.kprobes.register_kprobe(Kprobe(addr=m["at"]))
    regs = m.start("f")
    old = regs.sp
    m.memory.poke(old, b"\x90\x90\xc3")
    m.run(until=lambda regs: regs.ip == old)
    assert m.word(m.cpu[0].regs.sp) == m["at"] + 2 and m.cpu[0].regs.sp == old - 8


def test_far_call_relocates_by_its_width(every_mode):
    body = func("at: call far ptr [rip+where]\nmov r12, 5", "func g\nmov ebx, [rsp]\nmov r13d, [rsp+4]\nendf g\nnop\n")
    body += ".data\nwhere: .long 0\n.word 0x10\nwide: .quad g\n.word 0x20"
    if refused_by_int3(every_mode, body, "a far call"):
        return
    m = FakeMachine(body)
    p = Kprobe(addr=m["at"])
    m.kprobes.register_kprobe(p)
    m.memory.map(0x7000, 4096)
    m.memory.store(m["where"], 0x7000, 4)
    m.start("f")
    m.run(until=lambda regs: regs.ip == 0x7000)
    assert m.word(m.cpu[0].regs.sp, 4) == (p.addr + 6) & 0xFFFFFFFF and m.word(m.cpu[0].regs.sp + 4, 4) == 0x10


def test_far_call_with_rex_w(every_mode):
    body = func("at: .byte 0x48, 0xff, 0x1f\n", "func g\nret\nendf g") + "\n.data\nwhere: .quad g\n.word 0x10"
    if refused_by_int3(every_mode, body, "a far call"):
        return
    m = FakeMachine(body)
    p = Kprobe(addr=m["at"])
    m.kprobes.register_kprobe(p)
    m.start("f", m["where"])
    m.run(until=lambda regs: regs.ip == m["g"])
    assert m.word(m.cpu[0].regs.sp) == p.addr + 3


@pytest.mark.parametrize("insn", [
    "jmp rax", "jmp r11", "jmp [rdi]", "jmp [rip+table]", "jmp table[rcx*8+8]", ".byte 0x3e; jmp rax",
    ".byte 0x48, 0xff, 0x2f",
])
def test_I07_I45_indirect_jumps(every_mode, insn):
    if insn.startswith(".byte 0x48") and refused_by_int3(every_mode, func(f"at: {insn}"), "ljmp"):
        return

    def setup(m, regs):
        regs.ax = regs.r11 = m["there"]
        regs.cx = 0
        m.memory.store(m["room"], m["there"], 8)
        m.memory.store(m["room"] + 8, 0x10, 2)

    _, _, seen = same(func(f"at: {insn}\nmov ebx, 1\nret\nthere: mov ebx, 2"), setup=setup,
                      data="table: .quad there, there")
    assert len(seen) == 2


@pytest.mark.parametrize("insn", ["jmp 2f", ".byte 0xe9; .long 2f - . - 4", ".byte 0x66, 0xe9; .long 2f - . - 4"])
def test_I08_relative_jumps(insn):
    m, _, _ = same(func(f"xor ecx, ecx\n1: inc ecx\ncmp ecx, 3\nje 3f\nat: {insn}\nmov ebx, 9\n2: jmp 1b\n3:"), hits=2)
    assert m.cpu[0].regs.bx == 0
    m, _, _ = same(func("jmp 2f\n1: mov ebx, 5\nret\n2:\nat: jmp 1b"))
    assert m.cpu[0].regs.bx == 5


@pytest.mark.parametrize("cc", [
    "o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"])
@pytest.mark.parametrize("far", [False, True])
def test_I09_I10_I11_conditional_jumps(cc, far):
    outcomes = set()
    pad = ".fill 200, 1, 0x90" if far else ""
    for flags in (0, CF, ZF, SF, OF, PF, SF | OF, ZF | SF | OF, CF | ZF):
        body = func(f"jmp 2f\n1: mov ebx, 5\nret\n{pad}\n2:\nat: j{cc} 1b\nmov ebx, 6")
        m, _, _ = same(body, flags=flags | IF)
        outcomes.add(m.cpu[0].regs.bx)
    assert outcomes == {5, 6}


@pytest.mark.parametrize("insn", ["loop 1f", "loope 1f", "loopne 1f", "jrcxz 1f", "jecxz 1f", ".byte 0x67; loop 1f",
                                  ".byte 0x67; loope 1f"])
@pytest.mark.parametrize("count", [0, 1, 2, 1 << 32, (1 << 32) + 1])
@pytest.mark.parametrize("flags", [0, ZF])
def test_I12_to_I15_loops(insn, count, flags):
    def setup(m, regs):
        regs.cx = count

    same(func(f"at: {insn}\nmov ebx, 1\nret\n1: mov ebx, 2"), setup=setup, flags=flags | IF)


def test_I16_ret():
    _, _, seen = same("func f\nmov ebx, 3\nat: ret\nendf f")
    assert seen[1][1] == HOME


@pytest.mark.parametrize("insn", ["ret 16", ".byte 0xf3; ret", ".byte 0xf2; ret"])
def test_I17_ret_imm16(insn):
    same(f"func f\nmov ebx, 3\nat: {insn}\nendf f")


@pytest.mark.parametrize("insn", [".byte 0x48, 0xcb", ".byte 0x48, 0xca, 16, 0"])
def test_I18_far_return(insn):
    def setup(m, regs):
        m.memory.store(regs.sp + 8, 0x20, 8)

    m, _, _ = same(f"func f\nat: {insn}\nendf f", setup=setup)
    assert m.cpu[0].regs.cs == 0x20


@pytest.mark.parametrize("flags", [IF, 0, IF | CF, ZF, TF, TF | IF])
@pytest.mark.parametrize("insn", ["pushfq", "pushfw", ".byte 0x48; pushfq", ".byte 0x66, 0x48; pushfq"])
def test_I20_I21_I22_pushf(insn, flags):
    short = insn == "pushfw"
    m, _, _ = same(func(f"mov [rsp-8], rsp\nat: {insn}\nmovzx ebx, word ptr [rsp]\nlea rsp, [rsp+{2 if short else 8}]"),
                   flags=flags)
    assert m.cpu[0].regs.bx == 2 | flags


@pytest.mark.parametrize("before", [0, IF])
@pytest.mark.parametrize("image", [0, IF, ZF, IF | CF, OF | SF])
@pytest.mark.parametrize("insn", ["popfq", "popfw", ".byte 0x48; popfq"])
def test_I23_I24_popf(before, image, insn):
    size = 2 if insn == "popfw" else 8
    body = func(f"lea rsp, [rsp-{size}]\nmov word ptr [rsp], {image | 2}\nmov ebx, 0\nat: {insn}")
    m, _, _ = same(body, flags=before)
    assert m.cpu[0].regs.flags == image | 2


def debugger(body, probe, flags):
    """Return the ips at which a debugger sees a step, and the final flags."""
    m = FakeMachine(body)
    if probe:
        m.kprobes.register_kprobe(Kprobe(addr=m["at"]))
    seen = []
    m.guest_trap[1] = lambda m, trap: seen.append(trap.regs.ip)
    m.start("f", flags=flags)
    m.run()
    return seen, m.cpu[0].regs.flags


@pytest.mark.parametrize("flags", [IF, TF | IF])
@pytest.mark.parametrize("image", [0x102, 0x302, 0x202, 0x2])
def test_I25_popf_and_TF(flags, image):
    body = func(f"push {image}\nat: popfq\nnop\nmov ebx, 1\nnop\npush 2\npopfq")
    assert debugger(body, True, flags) == debugger(body, False, flags)


@pytest.mark.parametrize("flags", [IF, TF | IF])
@pytest.mark.parametrize("image", [0x102, 0x302, 0x202, 0x2])
def test_I30_iret_and_TF(every_mode, flags, image):
    body = func(f"mov rax, rsp\npush 0x18\npush rax\npush {image}\npush 0x10\nlea rax, [rip+1f]\npush rax\nat: iretq\n"
                "ud2\n1: nop\nnop\npush 2\npopfq")
    if refused_by_int3(every_mode, body, "iretq"):
        return
    assert debugger(body, True, flags) == debugger(body, False, flags)


@pytest.mark.parametrize("insn", ["cli", "sti", ".byte 0xf3; cli", ".byte 0x48; sti"])
@pytest.mark.parametrize("before", [0, IF, TF | IF, TF])
def test_I26_I27_cli_sti(insn, before):
    m, _, _ = same(func(f"at: {insn}\nnop"), flags=before)
    assert bool(m.cpu[0].regs.flags & IF) == insn.endswith("sti")
    assert bool(m.cpu[0].regs.flags & TF) == bool(before & TF)


@pytest.mark.parametrize("image", [2, 0x202, 0x246])
def test_I30_iretq(every_mode, image):
    body = func(f"mov rax, rsp\npush 0x18\npush rax\npush {image}\npush 0x20\nlea rax, [rip+1f]\npush rax\n"
                "at: iretq\nud2\n1: mov ebx, 8")
    if refused_by_int3(every_mode, body, "iretq"):
        return
    m, _, _ = same(body)
    assert m.cpu[0].regs.flags == image and m.cpu[0].regs.cs == 0x20


def test_I37_lock_prefix():
    m, p, _ = same(func("at: lock inc dword ptr [rdi]"))
    assert m.word(m["room"]) == 1 and m.read(m.kprobes.slot_of(p), 3) == bytes.fromhex("f0ff07")


def test_I38_rep_movsb_hits_once_per_iteration_in_tf_and_once_in_int3(every_mode):
    def setup(m, regs):
        regs.si, regs.cx = m["source"], 5

    hits = 5 if every_mode.step != "int3" else 1
    m, p, seen = same(func("at: rep movsb"), hits=hits, setup=setup, data='source: .ascii "hello"')
    assert m.read(m["room"], 6) == b"hello\0"
    assert [entry[1] for entry in seen if entry[0] == "post"] == [p.addr] * (hits - 1) + [p.addr + 2]


def test_I39_rep_stosq_of_nothing():
    def setup(m, regs):
        regs.cx, regs.ax = 0, 5

    m, _, _ = same(func("at: rep stosq"), setup=setup)
    assert m.word(m["room"]) == 0


def test_I40_repne_scasb_stops(every_mode):
    def setup(m, regs):
        regs.di, regs.cx, regs.ax = m["source"], 10, ord("l")

    m, _, _ = same(func("at: repne scasb"), hits=3 if every_mode.step != "int3" else 1, setup=setup, data='source: .ascii "hello"')
    assert m.cpu[0].regs.cx == 7


@pytest.mark.parametrize("insn", [
    "mov rax, [rip+value]", "lea rax, [rip+value]", "cmp dword ptr [rip+value], 0x12345678",
    "add word ptr [rip+value], 0x1234",
    pytest.param("movdqu xmm0, [rip+value]", marks=pytest.mark.fake_only("the core has no SSE; I53 is what it does")),
    "mov byte ptr [rip+value], 9",
    "imul eax, [rip+value], 100", "mov eax, dword ptr fs:[rip+value]",
])
def test_I41_to_I45_rip_relative(insn):
    m, p, _ = same(func(f"at: {insn}"), data="value: .quad 0x1122334412345678, 5")
    assert m.read(p.addr + 1, 2) != m.read(m.kprobes.slot_of(p) + 1, 6)


def test_I41_eip_relative_at_low_addresses():
    m = FakeMachine("func f\nat: .byte 0x67, 0x8b, 5, 1, 0, 0, 0\nret\nthere: .long 0x55667788\nendf f", text=0x100000)
    p = Kprobe(addr=m["at"])
    m.kprobes.register_kprobe(p)
    assert m.call("f") == 0x55667788 and p.hits == 1


def test_I46_absolute_displacement_is_not_rewritten():
    def setup(m, regs):
        m.memory.map(0x1000, 4096)
        m.memory.store(0x1000, 99, 8)

    m, p, _ = same(func("at: mov rax, [0x1000]"), setup=setup)
    assert m.cpu[0].regs.ax == 99 and m.read(m.kprobes.slot_of(p), 8)[:8] == bytes.fromhex("488b042500100000")


@pytest.mark.parametrize("body", [
    "at: push rsp\npop rax", "push 5\nsub rsp, 8\nat: pop qword ptr [rsp]\nadd rsp, 8",
    "push rbp\nmov rbp, rsp\nsub rsp, 32\nat: leave", "at: enter 32, 0\nleave", "at: push 0x1234567\npop rax",
    "at: xchg rax, [rdi]", "at: endbr64", "at: nop dword ptr [rax+rax*8+0]", "at: mov rax, gs:[0x10]",
    "at: .byte 0x2e; mov eax, 5", "at: movzx eax, byte ptr [rdi]", "at: sete al",
])
def test_I47_to_I51_architectural_results(body):
    def setup(m, regs):
        regs.ax = 3
        m.memory.map(0x5000, 4096)
        m.memory.store(0x5010, 1234, 8)
        m.cpu[0].bases["gs"] = 0x5000

    same(func(body), setup=setup)


COMPILED = """
func f
    push rbp
    mov rbp, rsp
    push rbx
    sub rsp, 24
    mov rbx, rdi
    xor eax, eax
    mov ecx, 10
1:  lea rdx, [rax+rax*2]
    mov [rbx+rax*8], rdx
    add rax, 1
    test al, 1
    je 2f
    xor rdx, [rip+key]
2:  cmp rax, 8
    jne 1b
    mov edi, 6
    call fact
    mov [rbp-24], rax
    mov rdi, rbx
    mov ecx, 3
    rep stosq
    lea rax, [rip+g]
    call rax
    add rax, [rbp-24]
    add rsp, 24
    pop rbx
    pop rbp
    ret
endf f
func fact
    cmp rdi, 1
    ja 1f
    mov eax, 1
    ret
1:  push rdi
    sub rdi, 1
    call fact
    pop rdi
    imul rax, rdi
    ret
endf fact
func g
    pushfq
    cli
    pop rax
    and eax, 0x200
    sti
    jmp [rip+way]
    ud2
out: ret
endf g
"""


def boundaries(m, name):
    from kprobes.insn import walk
    symbol = m.symbols.containing(m[name])
    return [addr for addr, _, text in walk(m.bytes_of(name), symbol.start) if text != "ud2"]


def test_every_instruction_of_compiled_code():
    """One probe at a time and all at once: the same memory and registers as the unprobed run."""
    data = "key: .quad 0x5555\nway: .quad out\n"
    plain, _, _ = run(COMPILED, data=data)
    places = [addr for name in ("f", "fact", "g") for addr in boundaries(plain, name)]
    assert len(places) > 40
    for probes in [*([place] for place in places), places]:
        m, planted, _ = run(COMPILED, data=data, probes=probes, limit=5000)
        assert m.cpu[0].regs == plain.cpu[0].regs
        assert m.read(m["room"], 512) == plain.read(plain["room"], 512)
        assert all(p.hits and not p.nmissed for p in planted)
        for p in planted:
            m.kprobes.unregister_kprobe(p)
        assert m.bytes_of("f") == plain.bytes_of("f") and m.bytes_of("fact") == plain.bytes_of("fact")


def test_mistakes_of_the_guest_stay_the_guests():
    with pytest.raises(UnhandledTrap):
        run(func("nop\nud2"), probes=())


C_SOURCE = r"""
struct node { struct node *next; unsigned long key; unsigned char bytes[16]; };
static struct node nodes[8];
static unsigned long table[4] = { 3, 5, 7, 11 };
static unsigned long mix(unsigned long a, unsigned long b) { return a * 31 + (b ^ (a >> 3)); }
static unsigned long twice(unsigned long a, unsigned long b) { return mix(mix(a, b), b); }
static unsigned long (*ways[2])(unsigned long, unsigned long) = { mix, twice };
unsigned long target(unsigned long seed)
{
    struct node *list = 0;
    unsigned long sum = 0;
    for (int i = 0; i < 8; i++) {
        nodes[i].next = list;
        nodes[i].key = seed * table[i & 3] + i;
        for (unsigned j = 0; j < 16; j++)
            nodes[i].bytes[j] = nodes[i].key >> (j & 7);
        list = &nodes[i];
    }
    for (; list; list = list->next) {
        switch (list->key % 5) {
        case 0: sum += 1; break;
        case 1: sum ^= list->bytes[3]; break;
        case 2: sum = mix(sum, list->key); break;
        case 3: sum -= (signed char)list->bytes[1]; break;
        default: sum += ways[list->key & 1](sum, list->bytes[2]);
        }
    }
    return sum;
}
"""


@pytest.mark.parametrize("optimisation", ["-O0", "-O1", "-O2", "-Os"])
def test_every_instruction_of_what_gcc_makes(optimisation):
    flags = [optimisation, "-mgeneral-regs-only", "-ffreestanding", "-fno-pic", "-mcmodel=kernel", "-masm=intel",
             "-mno-red-zone",  # a trap pushes its frame right below sp, so no kernel code may use it
             "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-jump-tables"]
    command = ["gcc", *flags, "-S", "-x", "c", "-o", "-", "-"]
    done = subprocess.run(command, input=C_SOURCE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def outcome(m):
        m.call("target", 12345, limit=100000)
        regs, nodes = m.cpu[0].regs, m.symbols.containing(m["nodes"])
        return regs.copy(), m.read(nodes.start, nodes.size)

    plain = FakeMachine(done.stdout)
    expected = outcome(plain)
    functions = [s.name for s in plain.symbols._symbols if plain.is_text(s.start) and s.size]
    places = [addr for name in functions for addr in boundaries(plain, name)]
    assert len(places) > 50
    m = FakeMachine(done.stdout)
    probes = [Kprobe(addr=addr, pre_handler=lambda p, regs: 0, post_handler=lambda *a: None) for addr in places]
    for p in probes:
        m.kprobes.register_kprobe(p)
    assert outcome(m) == expected
    reached = [p for p in probes if p.hits]
    assert len(reached) > len(probes) * 2 // 3 and not any(p.nmissed for p in probes)
    for p in probes:
        m.kprobes.unregister_kprobe(p)
    for p in reached[::25]:
        again = Kprobe(addr=p.addr)
        m.kprobes.register_kprobe(again)
        assert outcome(m) == expected and again.hits == p.hits
        m.kprobes.unregister_kprobe(again)
    assert all(m.bytes_of(name) == plain.bytes_of(name) for name in functions)
