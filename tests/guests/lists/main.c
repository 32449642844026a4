/* Lists of hypercalls whose parts depend on each other: what iret ends, and a base pointer whose old
 * L4 is memory again for the rest of the list. */
#include "guest.h"

static u64 root[512] __attribute__((aligned(PAGE_SIZE)));
static u64 data[512] __attribute__((aligned(PAGE_SIZE)));

/* A multicall whose iret leads to its own end, with `value` in rax. */
static u64 list_with_iret(struct multicall_entry *calls, u64 count, u64 value)
{
    u64 number = HYPERVISOR_multicall;
    __asm__ volatile("mov %%rsp, %%r12\n\t"
                     "push %[ss]\n\t"
                     "push %%r12\n\t"
                     "pushf\n\t"
                     "push %[cs]\n\t"
                     "push $771f\n\t"
                     "push $0\n\t"
                     "push $0\n\t"
                     "push $0\n\t"
                     "push %[value]\n\t"
                     "syscall\n\t"
                     "ud2\n"
                     "771:"
                     : "+a"(number), "+D"(calls), "+S"(count)
                     : [ss] "i"(FLAT_KERNEL_SS), [cs] "i"(FLAT_KERNEL_CS & ~3), [value] "r"(value)
                     : "rcx", "r11", "r12", "memory");
    return number;
}

static void iret_is_the_last(void)
{
    struct multicall_entry calls[3] = {
        {HYPERVISOR_xen_version, 1, {XENVER_version}},
        {HYPERVISOR_iret, 1, {0}},
        {HYPERVISOR_xen_version, 1, {XENVER_version}},
    };
    check_equal(list_with_iret(calls, 3, 0x1234), 0x1234);
    check_equal(calls[0].result, xen_version(XENVER_version, NULL));
    check_equal(calls[1].result, 0x1234);
    check_equal(calls[2].result, 1);
}

/* The old L4 is no table once nothing pins it, though the list began on it; this changes `slot`. */
static void leave_the_old_root(u64 slot)
{
    u64 *boot = (u64 *)start_info->pt_base;
    u64 old = va_to_mfn(boot);
    struct mmuext_op ops[] = {
        {.cmd = MMUEXT_NEW_BASEPTR, .arg1.mfn = va_to_mfn(root)},
        {.cmd = MMUEXT_UNPIN_TABLE, .arg1.mfn = old},
    };
    struct mmu_update updates[] = {
        {(old << PAGE_SHIFT) + slot * 8, 0},
        /* A live entry that changes: the host has the gate write to it. */
        {entry_ma(l1_entry((u64)data)), pte(va_to_mfn(data), PTE_RO)},
        {entry_ma(l1_entry((u64)data)), pte(va_to_mfn(data), PTE_RW)},
    };
    struct multicall_entry calls[2] = {
        {HYPERVISOR_mmuext_op, 1, {(u64)ops, ARRAY_SIZE(ops), 0, DOMID_SELF}},
        {HYPERVISOR_mmu_update, 1, {(u64)updates, ARRAY_SIZE(updates), 0, DOMID_SELF}},
    };
    for (u32 i = 0; i < 512; i++)
        root[i] = i - XEN_FIRST_SLOT < XEN_SLOTS ? 0 : READ_ONCE(boot[i]);
    check_equal(make_read_only(root), 0);
    check_equal(pin_table(4, va_to_mfn(root)), 0);
    check_equal(multicall(calls, 2), 0);
    check_equal(calls[0].result, 0);
    check_equal(calls[1].result, 0);
    check_equal(READ_ONCE(boot[slot]), 0);
    WRITE_ONCE(data[0], slot);

    check_equal(pin_table(4, old), 0);
    check_equal(new_baseptr(MMUEXT_NEW_BASEPTR, old), 0);
    check_equal(unpin_table(va_to_mfn(root)), 0);
    check_equal(make_writable(root), 0);
}

void guest_main(void)
{
    iret_is_the_last();
    for (u64 slot = XEN_FIRST_SLOT; slot < XEN_FIRST_SLOT + XEN_SLOTS; slot++)
        leave_the_old_root(slot);
    print("SUCCESS\n");
}
