"""An instruction-at-a-time model of the core, written from the manuals, and random programs that compare the two.

The model imports nothing of `hw`. What traps do (`delivery`, `returns`, `system`, `model`) is written from the manual; what
plain instructions compute (`plain`) is asked of the emulator Unicorn, one instruction at a time.
"""
