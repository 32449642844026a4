/* The second vCPU, which is down while it has nothing to change. */
#include "blkfront.h"

static void (*changes)(u32 turn);
static u32 turns;

static void run(u32 cpu)
{
    for (;;) {
        void (*thing)(u32 turn);
        while ((thing = load_acquire(&changes))) {
            thing(turns);
            store_release(&turns, turns + 1);
        }
        check_equal(vcpu_op(VCPUOP_down, cpu, NULL), 0);
    }
}

static void await_down(void)
{
    u64 end = now() + PATIENCE;
    while (vcpu_op(VCPUOP_is_up, 1, NULL))
        if (now() > end)
            fail("the mutator does not end");
}

void mutator_init(void)
{
    if (cpu_count() < 2)
        fail("one vCPU only: this guest needs --vcpus 2");
    check_equal(cpu_start(1, run), 0);
    await_down();
}

void mutator_begin(void (*thing)(u32 turn))
{
    u64 end = now() + PATIENCE;
    turns = 0;
    store_release(&changes, thing);
    check_equal(vcpu_op(VCPUOP_up, 1, NULL), 0);
    while (!load_acquire(&turns))
        if (now() > end)
            fail("the mutator does not begin");
}

void mutator_end(void)
{
    store_release(&changes, NULL);
    await_down();
}
