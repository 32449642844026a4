/* User mode: one address space, entered by the iret hypercall and left by SYSCALL. */
#include "guest.h"

static char pages[6][PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
enum { L4, L3, L2, L1, CODE, STACK };

static syscall_handler handler;

extern char syscall_entry[];
void user_enter(u64 rip, u64 rsp, u64 argument);
__attribute__((noreturn)) void user_leave(void);
void user_syscall(struct regs *regs);

static void link(u32 table, u64 slot, u32 page)
{
    ((u64 *)pages[table])[slot] = pte(va_to_mfn(pages[page]), PTE_RW);
}

void user_init(const void *code, size_t bytes, syscall_handler on_syscall)
{
    check(bytes <= PAGE_SIZE);
    handler = on_syscall;
    memcpy(pages[CODE], code, bytes);
    link(L4, 0, L3);
    link(L3, 0, L2);
    link(L2, USER_CODE >> 21, L1);
    link(L1, USER_CODE >> PAGE_SHIFT & 511, CODE);
    link(L1, (USER_STACK_TOP >> PAGE_SHIFT & 511) - 1, STACK);
    for (u32 table = L4; table <= L1; table++)
        check_equal(make_read_only(pages[table]), 0);
    u64 root = va_to_mfn(pages[L4]);
    check_equal(pin_table(4, root), 0);
    check_equal(new_baseptr(MMUEXT_NEW_USER_BASEPTR, root), 0);
    struct callback_register callback = {
        CALLBACKTYPE_syscall,
        CALLBACKF_mask_events,
        (u64)syscall_entry,
    };
    check_equal(callback_op(CALLBACKOP_register, &callback), 0);
}

void user_syscall(struct regs *regs)
{
    if (!handler(regs))
        user_leave();
}

void user_run(u64 argument)
{
    user_enter(USER_CODE, USER_STACK_TOP, argument);
    upcalls_on();
}
