/* User mode: its own address space, SYSCALL into the kernel, iret back, no way to the kernel. */
#include "guest.h"

#define GP TRAP_GENERAL_PROTECTION
#define PF TRAP_PAGE_FAULT
#define ARGUMENT 0x5a5a5a5aul

extern const char user_start[], user_end[];

static u32 calls[7];
static u64 faults[2], privileged;

/* A fault in user mode: counted, its instruction skipped (both loads and stores are 3 bytes). */
static bool on_trap(struct regs *regs)
{
    if (!from_user(regs))
        return false;
    check_equal(regs->cs & 0xffff, FLAT_USER_CS);
    if (regs->vector == PF) {
        bool store = regs->rax == 3;
        check_equal(this_vcpu()->cr2, VIRT_BASE);
        check_equal(regs->error_code & 6, store ? 6 : 4); /* user, and write */
        faults[store]++;
        regs->rip += 3;
        return true;
    }
    if (regs->vector == GP) {
        check_equal(regs->error_code, 0);
        privileged++;
        regs->rip += 1;
        return true;
    }
    return false;
}

static bool on_syscall(struct regs *regs)
{
    check(regs->rax < ARRAY_SIZE(calls));
    check(from_user(regs));
    check(regs->rip > USER_CODE && regs->rip < USER_CODE + PAGE_SIZE);
    check(regs->rsp > USER_STACK_TOP - PAGE_SIZE && regs->rsp <= USER_STACK_TOP);
    check_equal(this_vcpu()->evtchn_upcall_mask, 1); /* CALLBACKF_mask_events */
    calls[regs->rax]++;
    switch (regs->rax) {
    case 1:
        check_equal(regs->rdi, 0x77);
        check_equal(regs->rsi, ARGUMENT);
        check_equal(regs->rbx, 0x1234);
        regs->rax = 0x88;
        return true;
    case 5:
        fail("user code saw a wrong register");
    case 6:
        if (calls[6] == 1)
            timer_set(now() + 5 * MS);
        return timer_ticks < 3 && calls[6] < 100000;
    }
    return true;
}

void guest_main(void)
{
    user_init(user_start, (size_t)(user_end - user_start), on_syscall);
    trap_hook = on_trap;
    timer_set(0);
    timer_ticks = 2;
    user_run(ARGUMENT);
    check_equal(calls[1], 1);
    check_equal(faults[0], 1);
    check_equal(faults[1], 1);
    check_equal(privileged, 1);
    check_equal(timer_ticks, 3); /* an upcall came while user code ran */
    check_equal(calls[5], 0);
    print("SUCCESS\n");
}
