/* Who may do port I/O, cli and sti: by the IOPL that a hypercall sets, by the one in the flags that
 * iret loads, and by an I/O bitmap. And CPUID behind Xen's prefix, which is everybody's. */
#include "iopl.h"
#include "guest.h"

#define GP TRAP_GENERAL_PROTECTION
#define PORT 0x70
#define NR_PORTS_OF_BITMAP 0x10000u
#define FRAME_IOPL EFL_IOPL

extern const char user_start[], user_end[];

/* What user code tells: the value that its instruction read, and whether that trapped. */
static struct { u64 value; bool trapped; } told[CALLS];
static bool trapped;
static u64 user_iopl, seen_iopl;
/* Of the last byte, as of the first, a CPU reads two. */
static u8 bitmap[NR_PORTS_OF_BITMAP / 8 + 1];

static bool on_trap(struct regs *regs)
{
    if (!from_user(regs) || regs->vector != GP || regs->error_code)
        return false;
    const u8 *code = (const u8 *)user_start + (regs->rip - USER_CODE);
    regs->rip += *code == 0x66 ? 2 : 1;
    trapped = true;
    return true;
}

static bool on_syscall(struct regs *regs)
{
    check(regs->rax < CALLS);
    told[regs->rax].value = regs->rdi;
    told[regs->rax].trapped = trapped;
    trapped = false;
    if (regs->rax != START)
        seen_iopl = regs->rflags & FRAME_IOPL;
    regs->rflags = (regs->rflags & ~FRAME_IOPL) | user_iopl << 12;
    return regs->rax != CPUID;
}

/* Which of its instructions user code may have done; `iopl` is in its flags. */
static void check_user(u64 iopl, bool flags, bool byte, bool word)
{
    trapped = false;
    user_iopl = iopl;
    user_run(0);
    check_equal(told[CLI].trapped, !flags);
    check_equal(told[IN].trapped, !byte);
    check_equal(told[IN].value, byte ? 0x1234ff : 0x123456);
    check_equal(told[IN_WORD].trapped, !word);
    check_equal(told[IN_WORD].value, word ? 0x12ffff : 0x123456);
    check_equal(told[OUT].trapped, !byte);
    check_equal(told[CPUID].trapped, false);
    check_equal(told[CPUID].value, 0x566e6558); /* "XenV" */
}

static void check_probe(bool allowed)
{
    if (!allowed)
        check_equal(probe.error_code, 0);
    check_equal(probe.vector, allowed ? NO_TRAP : GP);
}

/* The same of the kernel. */
static void check_kernel(bool flags, bool byte, bool word)
{
    u64 rax = 0x123456;
    probe_arm();
    __asm__ volatile(GUARDED("cli") ::: "memory");
    check_probe(flags);
    probe_arm();
    __asm__ volatile(GUARDED("inb %1, %b0") : "+a"(rax) : "d"(PORT) : "memory");
    check_probe(byte);
    check_equal(rax, byte ? 0x1234ff : 0x123456);
    probe_arm();
    __asm__ volatile(GUARDED("inw %1, %w0") : "+a"(rax) : "d"(PORT) : "memory");
    check_probe(word);
    probe_arm();
    __asm__ volatile(GUARDED("outb %b0, %1") : "+a"(rax) : "i"(PORT) : "memory");
    check_probe(byte);
}

static long set_iobitmap(const void *bits, u32 ports)
{
    struct physdev_set_iobitmap arg = {bits, ports};
    return hypercall(HYPERVISOR_physdev_op, PHYSDEVOP_set_iobitmap, (u64)&arg, 0, 0, 0);
}

static void by_hypercall(void)
{
    for (u32 iopl = 0; iopl <= 3; iopl++) {
        check_equal(set_iopl(iopl), 0);
        check_kernel(iopl > 0, iopl > 0, iopl > 0);
        /* What its flags say does not count. */
        check_user(3 - iopl, iopl == 3, iopl == 3, iopl == 3);
        check_equal(seen_iopl, 0);
    }
    check_equal(set_iopl(4), -EINVAL);
    check_equal(set_iopl(0), 0);
}

static void by_bitmap(void)
{
    memset(bitmap, 0xff, sizeof bitmap);
    check_equal(set_iobitmap(bitmap, NR_PORTS_OF_BITMAP), 0);
    check_kernel(false, false, false);
    check_user(0, false, false, false);
    bitmap[PORT / 8] = (u8)~(1u << PORT % 8);
    check_kernel(false, true, false);
    check_user(0, false, true, false);
    bitmap[PORT / 8] &= (u8)~(2u << PORT % 8);
    check_kernel(false, true, true);
    check_user(0, false, true, true);
    /* A bitmap of fewer ports, one that is not there, addresses that are no guest's. */
    check_equal(set_iobitmap(bitmap, PORT + 1), 0);
    check_user(0, false, true, false);
    check_equal(set_iobitmap(bitmap, PORT), 0);
    check_user(0, false, false, false);
    check_equal(set_iobitmap((const void *)0x1000, NR_PORTS_OF_BITMAP), 0);
    check_kernel(false, false, false);
    check_user(0, false, false, false);
    check_equal(set_iobitmap(bitmap, NR_PORTS_OF_BITMAP + 1), -EINVAL);
    check_equal(set_iobitmap((const void *)HYPERVISOR_VIRT_START, 8), -EINVAL);
    check_equal(set_iobitmap((const void *)0x8000000000000000, 8), -EINVAL);
    check_equal(set_iobitmap(NULL, 0), 0);
    check_user(0, false, false, false);
}

/* A kernel in ring 0, whose flags have the IOPL. */
static void by_iret(void)
{
    check_equal(hypercall(HYPERVISOR_vm_assist, VMASST_CMD_enable, VMASST_TYPE_architectural_iopl, 0,
                          0, 0), 0);
    for (u64 iopl = 0; iopl <= 3; iopl++) {
        check_user(iopl, iopl == 3, iopl == 3, iopl == 3);
        check_equal(seen_iopl, iopl << 12);
        check_kernel(true, true, true);
    }
}

void guest_main(void)
{
    user_init(user_start, (size_t)(user_end - user_start), on_syscall);
    trap_hook = on_trap;
    check_kernel(false, false, false);
    by_hypercall();
    by_bitmap();
    by_iret();
    print("SUCCESS\n");
}
