/* Each exception reaches its handler in the trap table with the frame that the CPU would give. */
#include "guest.h"

#define DE 0
#define BP TRAP_BREAKPOINT
#define UD TRAP_INVALID_OPCODE
#define GP TRAP_GENERAL_PROTECTION
#define PF TRAP_PAGE_FAULT
#define UNMAPPED 0x10000000000ul
#define KERNEL_CS (FLAT_KERNEL_CS & ~3ul) /* Xen shows kernel mode by RPL 0 */

static char page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

/* Where a faulting instruction of this name lies. */
#define LABELLED(name, instruction) #name ": " instruction
extern char at_de[], at_ud[], at_gp[], at_bp[], at_int80[];

static void check_trap(u64 vector, u64 error_code, const void *rip)
{
    check_equal(probe.vector, vector);
    check_equal(probe.error_code, error_code);
    if (rip)
        check_equal(probe.rip, rip);
    check_equal(probe.cs & 0xffff, KERNEL_CS);
    check_equal(probe.cs >> 32 & 0xff, 0); /* the upcall mask before the trap */
    check_equal(probe.rflags & 0x200, 0x200);
    check_equal(this_vcpu()->evtchn_upcall_mask, 0);
}

static void exceptions(void)
{
    u32 low = 1, high = 0;
    probe_arm();
    __asm__ volatile(GUARDED(LABELLED(at_de, "div %2")) : "+a"(low), "+d"(high) : "r"(0) : "cc");
    check_trap(DE, 0, at_de);

    probe_arm();
    __asm__ volatile(GUARDED(LABELLED(at_ud, "ud2")) ::: "memory");
    check_trap(UD, 0, at_ud);

    probe_arm();
    __asm__ volatile(GUARDED(LABELLED(at_gp, "mov %0, %%fs")) : : "r"(0xfff8) : "memory");
    check_trap(GP, 0xfff8, at_gp);

    probe_arm();
    __asm__ volatile(GUARDED(LABELLED(at_bp, "int3")) ::: "memory");
    check_trap(BP, 0, at_bp + 1);
}

static void page_faults(void)
{
    probe_read((void *)UNMAPPED);
    check_trap(PF, 0, NULL);
    check_equal(probe.cr2, UNMAPPED);

    probe_write((void *)(UNMAPPED + 0x123), 1);
    check_trap(PF, PF_WRITE, NULL);
    check_equal(probe.cr2, UNMAPPED + 0x123);

    check_equal(make_read_only(page), 0);
    probe_read(page);
    check_equal(probe.vector, NO_TRAP);
    probe_write(page + 8, 1);
    check_trap(PF, PF_PRESENT | PF_WRITE, NULL);
    check_equal(probe.cr2, page + 8);
    check_equal(make_writable(page), 0);
    probe_write(page + 8, 0x1234);
    check_equal(probe.vector, NO_TRAP);
    check_equal(probe_read(page + 8), 0x1234);

    probe_read((void *)0x8000000000000000ul); /* not canonical */
    check_trap(GP, 0, NULL);
}

/* int n: by the DPL of the trap table's entry, a trap or #GP with the IDT's error code. */
static void software_interrupts(void)
{
    static struct trap_info closed[2];
    probe_arm();
    __asm__ volatile(GUARDED(LABELLED(at_int80, "int $0x80")) ::: "memory");
    check_trap(0x80, 0, at_int80 + 2);

    closed[0] = (struct trap_info){0x81, TI_IF, FLAT_KERNEL_CS, trap_stubs[0x81]};
    check_equal(set_trap_table(closed), 0);
    probe_arm();
    __asm__ volatile(GUARDED("int $0x81") ::: "memory");
    check_trap(GP, 0x81 << 3 | 2, NULL);

    closed[0].flags = TI_IF | 1;
    check_equal(set_trap_table(closed), 0);
    probe_arm();
    __asm__ volatile(GUARDED("int $0x81") ::: "memory");
    check_trap(0x81, 0, NULL);
}

/* A trap whose entry does not ask for TI_IF leaves upcalls as they were, and the other way. */
static bool mask_seen;

static bool see_mask(struct regs *regs)
{
    mask_seen = this_vcpu()->evtchn_upcall_mask;
    regs->rip += 2;
    return true;
}

static void masks(void)
{
    static struct trap_info entry[2];
    trap_hook = see_mask;
    __asm__ volatile("ud2");
    check(mask_seen);
    check_equal(this_vcpu()->evtchn_upcall_mask, 0);

    upcalls_off();
    __asm__ volatile("ud2");
    check(mask_seen);
    check_equal(this_vcpu()->evtchn_upcall_mask, 1);
    upcalls_on();

    entry[0] = (struct trap_info){UD, 0, FLAT_KERNEL_CS, trap_stubs[UD]};
    check_equal(set_trap_table(entry), 0);
    __asm__ volatile("ud2");
    check(!mask_seen);
    trap_hook = NULL;
}

/* All registers survive a trap and the iret after it. */
static void registers(void)
{
    u64 wrong = 1;
    trap_hook = see_mask;
    __asm__ volatile("mov $1, %%rax; mov $2, %%rbx; mov $3, %%rcx; mov $4, %%rdx; mov $5, %%rsi;"
                     "mov $6, %%rdi; mov $8, %%r8; mov $9, %%r9; mov $10, %%r10; mov $11, %%r11;"
                     "mov $12, %%r12; mov $13, %%r13; mov $14, %%r14; mov $15, %%r15; ud2;"
                     "dec %%rax; sub $2, %%rbx; sub $3, %%rcx; sub $4, %%rdx; sub $5, %%rsi;"
                     "sub $6, %%rdi; sub $8, %%r8; sub $9, %%r9; sub $10, %%r10; sub $11, %%r11;"
                     "sub $12, %%r12; sub $13, %%r13; sub $14, %%r14; sub $15, %%r15;"
                     "or %%rbx, %%rax; or %%rcx, %%rax; or %%rdx, %%rax; or %%rsi, %%rax;"
                     "or %%rdi, %%rax; or %%r8, %%rax; or %%r9, %%rax; or %%r10, %%rax;"
                     "or %%r11, %%rax; or %%r12, %%rax; or %%r13, %%rax; or %%r14, %%rax;"
                     "or %%r15, %%rax"
                     : "=a"(wrong)
                     :
                     : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
                       "r14", "r15", "cc", "memory");
    check_equal(wrong, 0);
    trap_hook = NULL;
}

void guest_main(void)
{
    exceptions();
    page_faults();
    software_interrupts();
    masks();
    registers();
    print("SUCCESS\n");
}
