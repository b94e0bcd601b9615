/* The interrupt that makes a hart see code which has changed (sim/coresync.py). It comes from outside the interrupt
 * controller, so there is no EOI. The store to a door of the TrapPort says that the hart has serialised; nothing is
 * pushed, and no register changes. */
#define SYNCED (0xfffffffffe000000 + 8 * 0xfe)

	.section .entry.text, "ax", @progbits
	.globl	sync_core_entry
	.type	sync_core_entry, @function
sync_core_entry:
	serialize
	mov	%rsp, SYNCED
	iretq
	.size	sync_core_entry, . - sync_core_entry

	.section .note.GNU-stack, "", @progbits
