/* The interprocessor interrupt that makes a hart see code which has changed (sim/coresync.py). The store to a door of the
 * TrapPort says that the hart has serialised; nothing is pushed, and no register changes. */
#define SYNCED (0xfffffffffe000000 + 8 * 0xfe)
#define APIC_EOI 0xfee000b0

	.section .entry.text, "ax", @progbits
	.globl	sync_core_entry
	.type	sync_core_entry, @function
sync_core_entry:
	serialize
	mov	%rsp, SYNCED
	addr32 movl $0, APIC_EOI
	iretq
	.size	sync_core_entry, . - sync_core_entry

	.section .note.GNU-stack, "", @progbits
