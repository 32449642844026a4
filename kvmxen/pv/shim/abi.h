/* What the gate and the host agree on; shim/image.py reads these lines too.
 * Only "#define NAME number" and comments stand here. */

/* The shim's code and tables from gpa 0, in bytes. One page of them is the gate, at SHIM_VA: which
 * one depends on the address space (shim/image.py). */
#define EXITS_GATE 0x0000
#define RING0_GATE 0x1000
#define KERNEL_GATE 0x2000
#define USER_GATE 0x3000
#define SYSCALL_TRAP 0x4000
#define SYSCALL_PAGE 0x5000
#define DISPATCHER 0x6000
#define DISPATCHER_SIZE 0x6000
#define SHIM_IDT 0xc000
#define SHIM_DOMAIN 0xd000
#define SHIM_TABLES 0xf000

/* Offsets in the gate, in bytes. */
#define GATE_STUBS 0x000
#define STUB_SIZE 64
#define NR_STUBS 37
#define GATE_OP_RETURN 0xa00
#define GATE_IRET 0xa01
#define GATE_OP_TOUCH 0xa10
#define GATE_OP_INVLPG 0xa20
#define GATE_OP_CR3 0xa30
#define GATE_OP_CR0 0xa40
#define GATE_OP_SWAPGS 0xa50
#define GATE_OP_HALT 0xa60
#define GATE_OP_WRMSR 0xa70
#define GATE_OP_USER_GS 0xa90
/* Operations that a dispatcher in ring 3 calls. */
#define GATE_CALL_INVLPG 0xaa0
#define GATE_CALL_CR3 0xab0
#define GATE_CALL_CR0 0xac0
#define GATE_CALL_WRMSR 0xad0
#define GATE_CALL_USER_GS 0xae0
/* Where SYSCALL from 32-bit code and SYSENTER come. Their addresses' low halves lie in the page of
 * NULL, which kernels give no user code: some hosts go on there. */
#define GATE_SYSCALL32 0xbc0
#define GATE_SYSENTER 0xbd0
#define GATE_SIZE 0x1000

/* Offsets in a syscall page, of which each vCPU sees one at VCPU_SYSCALL_PAGE. */
#define SYSCALL_ENTRY 0x00
#define TRAP_ENTRY 0x80
#define TRAP_ERROR_ENTRY 0x100
#define BREAKPOINT_ENTRY 0x180
#define PAGE_FAULT_ENTRY 0x200

/* Offsets in the dispatcher: its traps into the gate, and the code that it begins again when an
 * interrupt has met it. */
#define DISPATCHER_EXIT 0x00
#define DISPATCHER_GATE 0x08
#define DISPATCHER_RESUME 0x50
#define DISPATCHER_LEAVE 0x90
#define DISPATCHER_RESUMED 0x200

/* Stubs: the CPU's exceptions (abi/x86.h), then the shim's interrupts, then the end of a list that does not
 * return to the guest, and the trap that the dispatcher leaves to the host. */
#define STUB_EVENT 32
#define STUB_TIMER 33
#define STUB_SPURIOUS 34
#define STUB_DONE 35
#define STUB_FRAME 36
/* What the kernel gate adds to the port of an interrupt, which it alone may have met in the
 * dispatcher, and of the dispatcher's traps. */
#define STUB_KERNEL 64

/* The interrupt vectors behind those stubs. */
#define VECTOR_EVENT 0xe0
#define VECTOR_TIMER 0xe1
#define VECTOR_SPURIOUS 0xff

/* The port by which the dispatcher in ring 0 rings a backend, whose number it writes: KVM hears it
 * (KVM_IOEVENTFD), and the host only where nobody listens any more. */
#define DOORBELL_PORT 0x100

/* What the dispatcher does with what the guest sends to an event channel: leave it to the host, ring
 * a backend, or raise the channel on vCPU PORT - PORT_IPI, whose IPI it is. */
#define PORT_HOST 0
#define PORT_DOORBELL 1
#define PORT_IPI 2

/* What the vCPU loop tells its caller beyond stub numbers. */
#define TRAP_SYSCALL 40
#define TRAP_SYSCALL32 41
#define TRAP_SYSENTER 42
#define TRAP_BAD_IRET 43
/* A debug exception that the shim met: dropped, the vCPU is to go on where it was. */
#define TRAP_LOST_DEBUG 44
#define INTERRUPTED 45

/* Virtual addresses, each the begin of an L4 slot that a PV guest leaves to Xen. The first has the
 * machine-to-physical table too, for hosts where ring 3 cannot reach HYPERVISOR_VIRT_START, where
 * guests that do not ask expect it. */
#define M2P_VA 0xffff808000000000
#define SHIM_VA 0xffff810000000000
#define PHYSMAP_VA 0xffff818000000000

/* Offsets in a vCPU's part of the shim's memory, in bytes. */
#define VCPU_TSS 0x0000
#define VCPU_TRAP_FRAME 0x0080
#define VCPU_TRAP_ERROR_FRAME 0x00b0
#define VCPU_BREAKPOINT_FRAME 0x00e0
#define VCPU_PAGE_FAULT_FRAME 0x0110
#define VCPU_WORK 0x0140
#define VCPU_WORK_END 0x1000
#define VCPU_DEBUG_STACK_END 0x1400
#define VCPU_TRAP_STACK_END 0x1800
#define VCPU_INTERRUPT_STACK_END 0x2000
#define VCPU_GDT 0x2000
#define VCPU_LDT 0x12000
#define VCPU_STATE 0x22000
#define VCPU_LEAVE_FRAME 0x23000
#define VCPU_FRAME_END 0x25000
#define VCPU_SYSCALL_PAGE 0x25000
#define VCPU_SIZE 0x26000

/* Selectors in the part of the GDT that is Xen's, beside its flat segments (xen/abi/xen.h). */
#define SEL_RING0_CS 0xe008
#define SEL_RING0_SS 0xe010
#define SEL_TSS 0xe040
#define SEL_LDT 0xe050
