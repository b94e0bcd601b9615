/* Firmware for QEMU: brings a PC to the state in which a hart of ours starts, and enters the guest.
 *
 * It replaces the BIOS, so that memory is all zeros as on the core. The guest's RAM is the 16 MiB above the first 16 of the
 * PC (the first have holes for video memory and ROM), seen by the guest at 0 and at 0xffffffff80000000 as on the core. So is
 * the page of the local interrupt controller. Nothing else is mapped but, for the supervisor and far from everything, the top
 * 4 MiB of the first 4 GiB. The lower half of these is RAM in which sim/qemu.py left the guest's entry point and stack
 * pointer; the upper half ends with this ROM.
 *
 * The page tables are in the ROM: their accessed and dirty bits are set, so that the processor does not write to them. */

#define ROM		0xffff0000
#define FAR		0xfffffe0000000000	/* the first 4 GiB, as they are seen after the switch */
#define PARAMETERS	0x03000000		/* two quadwords: entry, stack pointer */
#define GUEST_RAM	0x01000000
#define APIC		0xfee00000

#define LEAF_USER	0xe7	/* present, writable, user, accessed, dirty, 2 MiB */
#define LEAF		0xe3	/* the same for the supervisor alone */
#define PAGE		0x63	/* 4 KiB */
#define TABLE_USER	0x27
#define TABLE		0x23

#define EFER		0xc0000080

	.text
rom:
/* --- page tables, 4 KiB each */
tables_boot:				/* while the switch is made: also the first 4 GiB where they are */
	.quad	top_of_4g + TABLE
	.fill	507, 8, 0
	.quad	top_of_4g + TABLE
	.fill	3, 8, 0
tables_guest:
	.quad	low + TABLE_USER
	.fill	507, 8, 0
	.quad	top_of_4g + TABLE	/* FAR */
	.fill	2, 8, 0
	.quad	high + TABLE_USER
low:	.quad	ram + TABLE_USER
	.fill	2, 8, 0
	.quad	apic + TABLE
	.fill	508, 8, 0
apic:	.fill	503, 8, 0
	.quad	apic_page + TABLE
	.fill	8, 8, 0
apic_page:
	.quad	APIC + PAGE
	.fill	511, 8, 0
high:	.fill	510, 8, 0
	.quad	ram + TABLE_USER
	.quad	0
ram:	.set	page, GUEST_RAM
	.rept	8
	.quad	page + LEAF_USER
	.set	page, page + 0x200000
	.endr
	.fill	504, 8, 0
top_of_4g:
	.fill	3, 8, 0
	.quad	top + TABLE
	.fill	508, 8, 0
top:	.fill	510, 8, 0
	.quad	PARAMETERS + LEAF
	.quad	0xffe00000 + LEAF

/* --- segments as a hart has them at power-on: accessed, so that nothing is written here */
gdt:	.quad	0
	.quad	0x00af9b000000ffff	/* 0x08: 64-bit code */
	.quad	0x00cf93000000ffff	/* 0x10: data */
	.quad	0x00cf9b000000ffff	/* 0x18: 32-bit code, for the switch */
gdt_end:
gdt_pointer:
	.word	gdt_end - gdt - 1
	.quad	gdt
gdt_pointer_far:
	.word	gdt_end - gdt - 1
	.quad	FAR + gdt
idt_pointer:
	.word	0xffff
	.quad	0

	.code16
real:	lgdtl	%cs:(gdt_pointer - rom)
	mov	$0xff, %al		/* no interrupt from the PC's devices */
	out	%al, $0x21
	out	%al, $0xa1
	mov	$0x11, %eax
	mov	%eax, %cr0
	ljmpl	$0x18, $protected

	.code32
protected:
	mov	$0x20, %eax		/* PAE */
	mov	%eax, %cr4
	mov	$tables_boot, %eax
	mov	%eax, %cr3
	mov	$EFER, %ecx
	mov	$0x100, %eax		/* LME */
	xor	%edx, %edx
	wrmsr
	mov	$0x80050033, %eax	/* PG AM WP NE ET MP PE */
	mov	%eax, %cr0
	ljmpl	$0x08, $long_mode

	.code64
long_mode:
	movabs	$FAR + far, %rax
	jmp	*%rax
far:	mov	$tables_guest, %eax
	mov	%rax, %cr3
	lgdt	gdt_pointer_far(%rip)
	lidt	idt_pointer(%rip)
	mov	$0x10, %eax
	mov	%eax, %ss
	mov	%eax, %ds
	mov	%eax, %es
	xor	%eax, %eax
	mov	%eax, %fs
	mov	%eax, %gs
	lldt	%ax
	inc	%eax			/* RFLAGS = 2; what follows changes no flag */
	mov	$0, %eax
	mov	$0, %ecx
	mov	$0, %edx
	mov	parameters + 8(%rip), %rsp
	jmp	*parameters(%rip)

/* The parameters lie at the start of the 4 MiB that are mapped. */
	.set	parameters, rom + 0xffc00000 - ROM

	.org	0xfff0
	.code16
reset:	jmp	real
	.org	0x10000

	.section .note.GNU-stack, "", @progbits
