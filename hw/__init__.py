"""The hardware: a pipelined x86-64 core with its trap logic, described in Amaranth. Imports nothing of kprobes or sim."""
