"""What the tests have made the core do: `collect` gathers it while they run, `report` says what is missing.

``python -m pytest ...`` leaves it in out/coverage.json; ``python -m tests.coverage`` prints the report.
"""
