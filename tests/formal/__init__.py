"""Proofs of parts of the core, by Yosys and an SMT solver: `prover` runs them, `proofs` lists them.

``python -m tests.formal`` runs all and prints the list; with ``--write`` it goes into docs/verification.md.
"""
