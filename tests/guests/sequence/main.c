/*
 * Long sequences of hypercalls, traps and returns, most of them valid, from a seed; prints what
 * they left: two ways to run a guest must print the same. Command line: seed=, rounds= (of
 * BATCH operations each), verbose=1 for a line an operation, shared=1 to have tables that are
 * the kernel's and its user code's at once. A second vCPU keeps the host busy.
 */
#include "sequence.h"

#define BATCH 64

static volatile bool done;

static void operation(void)
{
    switch (below(16)) {
    case 0:
        return write_table();
    case 1:
        return one_in(4) ? change_traps() : send_event();
    case 2:
    case 3:
    case 4:
        return do_kernel();
    case 5:
    case 6:
    case 7:
        return do_user();
    case 8:
        return do_iret();
    }
    do_call();
}

static void other(u32 cpu)
{
    while (!done)
        xen_version(XENVER_version, NULL);
    vcpu_op(VCPUOP_down, cpu, NULL);
}

void guest_main(void)
{
    u64 rounds = option("rounds", 50);
    seed = (option("seed", 1) + 1) * 0x9e3779b97f4a7c15 | 1;
    verbose = option("verbose", 0);
    shared = option("shared", 0);
    run_init();
    tables_init();
    port_init();
    if (cpu_count() > 1)
        check_equal(cpu_start(1, other), 0);
    for (u64 round = 0; round < rounds; round++) {
        for (u32 i = 0; i < BATCH; i++) {
            operation();
            if (verbose) {
                tables_digest();
                print("%lu.%u %016lx\n", round, i, digest);
            }
        }
        tables_digest();
        m2p_digest();
        print("%lu: %016lx\n", round, digest);
    }
    done = true;
    print("SUCCESS\n");
}
