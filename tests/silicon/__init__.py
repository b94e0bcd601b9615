"""Architectural test vectors captured from the processor that runs the tests.

    python -m tests.silicon.capture --count 5000 --seed 1 --max-insns 4 -o vectors.json

`executor` runs snippets natively (`executor.c`); `table` says which rows of `hw.isa` take part;
`generate` grows snippets on the silicon, with `state`, `encode`, `semantics`, `strings` and `flags`; `capture` writes
the file; `shrink` makes a failing vector small; `campaign` does all of it for hundreds of thousands.
"""
