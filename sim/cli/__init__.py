"""The command line: `common` (options, messages, exit codes) and one module for each command.

A command's module has `EXAMPLES`, `configure(parser)` and `main(arguments)`, which returns the exit code. Modules are
loaded when their command is given, so that help and mistakes cost nothing.
"""

#: Every command and what it is for, in the order in which help lists them.
COMMANDS = {
    "run": "run a guest, or the demo, with probes, and show every hit",
    "trace": "trace a guest with probe events, as ftrace does",
    "explore": "let an event come in every cycle of a window, and compare",
    "explain": "say how an instruction would be probed, and what that costs",
    "list": "list probes on a guest as the kernel does, or its blacklist",
    "vectors": "run architectural test vectors and compare",
    "qemu": "run a guest on QEMU, for another opinion",
    "table": "list the instructions of the core",
    "engines": "list the engines and what each can do here",
    "bench": "measure cycles per instruction, of traps, and per second",
    "export": "write the core as Verilog",
    "kernel": "run functions of a Linux kernel and compare",
    "doctor": "check what is installed, and say what is missing",
}
