"""Random bytes as code, by the million: the core never hangs, retires only what is in the table, and faults as defined."""
