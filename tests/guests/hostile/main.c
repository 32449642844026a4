/*
 * A guest that makes a million random hypercalls and must do its host no harm. Command line:
 * seed=, rounds=. Every 100,000 calls it says so, at the end SUCCESS. Meant for one vCPU.
 */
#include "hostile.h"

#define PROGRESS 100000

static void *restart[5];
static struct call last;
static u64 traps;
extern char event_entry[];

/* Entered by Xen with its own frame on the stack, which is left behind. */
static void on_failsafe(void)
{
    __builtin_longjmp(restart, 1);
}

static void set_callback(u16 type, u64 address)
{
    struct callback_register callback = {type, 0, address};
    check_equal(callback_op(CALLBACKOP_register, &callback), 0);
}

/* What random calls change of the guest's own: traps, callbacks, debug registers, the arena. */
static void restore(void)
{
    static struct trap_info table[257];
    hypercall(HYPERVISOR_set_debugreg, 7, 0, 0, 0, 0);
    trap_table(table);
    check_equal(set_trap_table(table), 0);
    set_callback(CALLBACKTYPE_event, (u64)event_entry);
    set_callback(CALLBACKTYPE_failsafe, (u64)on_failsafe);
    arena_map();
}

static bool on_trap(struct regs *regs)
{
    (void)regs;
    hypercall(HYPERVISOR_set_debugreg, 7, 0, 0, 0, 0);
    traps++;
    __builtin_longjmp(restart, 1);
}

static bool changes_the_guest(u64 nr)
{
    return nr == HYPERVISOR_set_trap_table || nr == HYPERVISOR_set_callbacks ||
           nr == HYPERVISOR_callback_op || nr == HYPERVISOR_multicall ||
           nr == HYPERVISOR_update_va_mapping || nr == HYPERVISOR_update_va_mapping_otherdomain ||
           nr == HYPERVISOR_set_debugreg;
}

void guest_main(void)
{
    u64 rounds = option("rounds", 1000000);
    static u64 round;
    seed = option("seed", 1) * 0x9e3779b97f4a7c15 | 1;
    trap_hook = on_trap;
    restore();
    if (__builtin_setjmp(restart))
        restore();
    while (round < rounds) {
        round++;
        if (round % PROGRESS == 0)
            print("%lu calls, %lu traps\n", round, traps);
        upcalls_on();
        last = draw_call();
        if (changes_the_guest(last.nr)) /* no upcall before its callback is back */
            upcalls_off();
        run_call(&last);
        if (changes_the_guest(last.nr))
            restore();
    }
    print("SUCCESS\n");
}
