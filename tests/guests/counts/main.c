/* Does one thing as often as the command line says: syscalls=, faults=, switches=. */
#include "guest.h"

extern const char user_start[], user_end[];
static u64 root[512] __attribute__((aligned(PAGE_SIZE)));

static bool on_syscall(struct regs *regs)
{
    return regs->rax;
}

static bool on_fault(struct regs *regs)
{
    if (!from_user(regs) || regs->vector != 14)
        return false;
    regs->rip += 7;
    return true;
}

static void switches(u64 count)
{
    const u64 *l4 = (const u64 *)start_info->pt_base;
    u64 roots[2] = {va_to_mfn(root), va_to_mfn(l4)};
    for (u32 slot = 272; slot < 512; slot++)
        root[slot] = READ_ONCE(l4[slot]);
    check_equal(pin_table(4, roots[0]), 0);
    for (u64 i = 0; i < 2 * count; i++)
        check_equal(new_baseptr(MMUEXT_NEW_BASEPTR, roots[i % 2]), 0);
}

void guest_main(void)
{
    user_init(user_start, (size_t)(user_end - user_start), on_syscall);
    trap_hook = on_fault;
    switches(option("switches", 0));
    user_run(option("faults", 0) << 32 | option("syscalls", 0));
    print("SUCCESS\n");
}
