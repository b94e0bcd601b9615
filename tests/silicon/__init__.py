"""Architectural test vectors captured from the processor that runs the tests."""
