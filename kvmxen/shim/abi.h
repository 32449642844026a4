/* What the gate and the host agree on; shim/image.py reads these lines too.
 * Only "#define NAME number" and comments stand here. */

/* Offsets in the gate's code page, in bytes. */
#define GATE_STUBS 0x000
#define STUB_SIZE 8
#define NR_STUBS 36
#define GATE_OP_RETURN 0x200
#define GATE_IRET 0x201
#define GATE_OP_TOUCH 0x210
#define GATE_OP_INVLPG 0x220
#define GATE_OP_CR3 0x230
#define GATE_OP_CR0 0x240
#define GATE_OP_SWAPGS 0x250
#define GATE_OP_HALT 0x260
#define GATE_SIZE 0x1000

/* Offsets in the syscall page that follows it. */
#define SYSCALL_ENTRY 0x00
#define SYSCALL32_ENTRY 0x10

/* Stubs: the CPU's exceptions, then the shim's interrupts, then the end of a list that does not
 * return to the guest. */
#define TRAP_PAGE_FAULT 14
#define STUB_EVENT 32
#define STUB_TIMER 33
#define STUB_SPURIOUS 34
#define STUB_DONE 35

/* The interrupt vectors behind those stubs. */
#define VECTOR_EVENT 0xe0
#define VECTOR_TIMER 0xe1
#define VECTOR_SPURIOUS 0xff

/* What the vCPU loop tells its caller beyond stub numbers. */
#define TRAP_SYSCALL 40
#define TRAP_SYSCALL32 41
#define TRAP_BAD_IRET 42
#define INTERRUPTED 43

/* Virtual addresses, each the begin of an L4 slot that a PV guest leaves to Xen. The first is
 * where guests that do not ask expect the machine-to-physical table; the second has it too,
 * for hosts where ring 3 cannot reach the first. */
#define XEN_M2P_VA 0xffff800000000000
#define M2P_VA 0xffff808000000000
#define SHIM_VA 0xffff810000000000
#define PHYSMAP_VA 0xffff818000000000

/* Offsets in a vCPU's part of the shim's memory, in bytes. */
#define VCPU_TSS 0x0000
#define VCPU_WORK 0x0100
#define VCPU_WORK_END 0x1000
#define VCPU_TRAP_STACK_END 0x2000
#define VCPU_GDT 0x2000
#define VCPU_LDT 0x12000
#define VCPU_SIZE 0x24000

/* Selectors in the part of the GDT that is Xen's (xen/include/public/arch-x86). */
#define SEL_RING0_CS 0xe008
#define SEL_RING0_SS 0xe010
#define SEL_RING3_CS32 0xe023
#define SEL_RING3_SS 0xe02b
#define SEL_RING3_CS64 0xe033
#define SEL_TSS 0xe040
#define SEL_LDT 0xe050
