/*
 * A kernel that writes into whatever of the shim it can reach while it makes hypercalls: its own
 * end, and no one else's. Command line: parts=, the machine address of the first vCPU's part of
 * the shim, seed=, rounds=. A second vCPU writes there too. Says SUCCESS if it lives.
 */
#include "pv/shim/abi.h"
#include "guest.h"

static u64 parts, seed;
static char page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

static u64 draw(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1d;
}

static u64 draw_value(void)
{
    static const u64 edges[] = {
        0, 1, 2, 8, 255, ~0ul, 0x8000000000000000, SHIM_VA, PHYSMAP_VA, MSR_FS_BASE, 0x7fffffff,
        STUB_EVENT, STUB_TIMER, STUB_DONE, TRAP_SYSCALL, TRAP_BAD_IRET, 0x3b, 0xfffffffffffff000,
    };
    switch (draw() >> 62) {
    case 0:
        return draw();
    case 1:
        return pfn_to_mfn((draw() >> 8) % start_info->nr_pages) << PAGE_SHIFT;
    default:
        return edges[(draw() >> 8) % ARRAY_SIZE(edges)];
    }
}

/* The state with its tables, the list for the gate, the frame, and the stack of traps. */
static u64 draw_place(u64 part)
{
    switch (draw() >> 62) {
    case 0:
        return part + VCPU_STATE + (draw() >> 8) % 56 * 8;
    case 1:
        return part + VCPU_STATE + (draw() >> 8) % 320 * 8;
    case 2:
        return part + VCPU_FRAME_END - 8 - (draw() >> 8) % 32 * 8;
    default:
        return part + (draw() >> 8) % VCPU_SIZE / 8 * 8;
    }
}

static void scribble(u64 part)
{
    u64 *where = (u64 *)(SHIM_VA + draw_place(part));
    probe_write(where, draw_value());
}

static void other(u32 cpu)
{
    (void)cpu;
    for (;;) {
        u64 *where = (u64 *)(SHIM_VA + parts + VCPU_STATE + (draw() >> 8) % 1024 * 8);
        WRITE_ONCE(*where, draw_value());
    }
}

static void work(void)
{
    u64 entry = pte(va_to_mfn(page), PTE_RW);
    struct mmuext_op flush = {.cmd = MMUEXT_TLB_FLUSH_ALL};
    switch (draw() >> 62) {
    case 0:
        set_segment_base(SEGBASE_FS, draw());
        break;
    case 1:
        update_va_mapping((u64)page, entry, UVMF_INVLPG);
        break;
    case 2:
        mmuext_op(&flush, 1, NULL, DOMID_SELF);
        break;
    default:
        xen_version(XENVER_capabilities, page);
    }
}

void guest_main(void)
{
    u64 rounds = option("rounds", 2000);
    parts = option("parts", 0);
    seed = (option("seed", 1) + 1) * 0x9e3779b97f4a7c15 | 1;
    probe_write((void *)(SHIM_VA + parts + VCPU_FRAME_END - 8), 0);
    bool reached = probe.vector == NO_TRAP;
    print("the shim is %s\n", reached ? "in reach" : "out of reach");
    if (reached && cpu_count() > 1)
        cpu_start(1, other);
    for (u64 i = 0; i < rounds; i++) {
        scribble(parts);
        work();
    }
    print("SUCCESS\n");
}
