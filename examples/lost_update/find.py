"""Builds the guest, runs it on two harts with the probes of probes.py, and prints where a count was lost.

python examples/lost_update/find.py             # finds it, exit code 1
python examples/lost_update/find.py --locked    # the same program with a spinlock: nothing to find, exit code 0
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import probes

from sim import Machine
from sim.guestbuild import RUNTIME_DIR, SMP, build

HERE = Path(__file__).parent


def main(argv: list[str] | None = None) -> int:
    """Run; 1 if a count was lost."""
    parser = argparse.ArgumentParser(description="Find a lost update with probes.")
    parser.add_argument("--locked", action="store_true", help="the program with a lock")
    parser.add_argument("--engine", default="auto", help="an engine of kphw engines (default: auto)")
    arguments = parser.parse_args(argv)
    sources = [HERE / "guest.c", *(RUNTIME_DIR / name for name in SMP)]
    elf = build(sources, defines=["LOCKED"] if arguments.locked else [])
    with Machine(elf, engine=arguments.engine, harts=2) as machine:
        plain = machine.run()
    with Machine(elf, engine=arguments.engine, harts=2) as machine:
        race = probes.setup(machine)
        probed = machine.run()
    print(f"without probes: {plain.console.decode().strip()} in {plain.cycles:,} cycles")
    print(f"with probes:    {probed.console.decode().strip()} in {probed.cycles:,} cycles, {probed.hits} hits")
    print(f"lost updates that the probes saw: {len(race.lost)}")
    if not race.lost:
        return 0
    script, cycle = os.path.relpath(probes.__file__), race.lost[0][0].load_cycle
    print(
        f"as a waveform:  kphw run {os.path.relpath(elf)} --harts 2 --script {script} --wave --wave-around cycle:{cycle}"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
