/* Page tables, as kvmxen/paging.pyx has them: each entry that is installed is checked and gets the
 * user bit. The store is the guest's own, so that a KVM that shadows its tables sees it.
 */
#include "dispatch.h"

/* Bounds a pin: a guest can make a walk meet the same tables again and again. */
#define MAX_TABLES 4096

#define MACHPHYS_UPDATE 1
#define PRESERVE_AD 2

#define UVMF_FLUSH_MASK 3
#define UVMF_TLB_FLUSH 1
#define UVMF_INVLPG 2
#define UVMF_ALL 4ul

static u8 *level_of(u64 mfn)
{
    return (u8 *)machine(domain()->levels_gpa) + mfn;
}

static bool is_xen_slot(u32 slot)
{
    return slot - XEN_FIRST < XEN_SLOTS;
}

/* Whether the value may be installed; adds the user bit. Frames shared with Xen are the host's. */
static bool sanitise(u64 *value)
{
    if (!(*value & PTE_PRESENT))
        return true;
    if (*value & PTE_LARGE || !is_ram((*value & PTE_FRAME) >> 12))
        return false;
    *value |= PTE_USER;
    return true;
}

static void store(u64 *entry, u64 value, bool keep_ad)
{
    if (!keep_ad) {
        __atomic_store_n(entry, value, __ATOMIC_SEQ_CST);
        return;
    }
    u64 old = __atomic_load_n(entry, __ATOMIC_SEQ_CST);
    while (!__atomic_compare_exchange_n(entry, &old, value | (old & (PTE_ACCESSED | PTE_DIRTY)),
                                        false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
}

static int update(state *s, u64 gpa, u64 value, bool keep_ad)
{
    u64 mfn = gpa >> 12;

    if (gpa & 7 || !is_ram(mfn))
        return HOST;
    if (is_xen_slot((gpa & 0xfff) >> 3)
        && (*level_of(mfn) == 4 || mfn == s->kernel_cr3 >> 12 || mfn == s->user_cr3 >> 12))
        return HOST;
    if (!sanitise(&value))
        return HOST;
    store(machine(gpa), value, keep_ad);
    return DONE;
}

/* struct mmu_update (xen/include/public/xen.h): two words. */
static int mmu_update(state *s, const u64 *words)
{
    u64 kind = words[0] & 3, pointer = words[0] & ~3ul;

    if (kind != MACHPHYS_UPDATE)
        return update(s, pointer, words[1], kind == PRESERVE_AD);
    if (!is_ram(pointer >> 12))
        return HOST;
    ((u64 *)machine(domain()->m2p_gpa))[pointer >> 12] = words[1];
    return DONE;
}

int hypercall_mmu_update(state *s, frame *f)
{
    return for_each(s, f, 2, mmu_update);
}

int hypercall_update_va_mapping(state *s, frame *f)
{
    u64 value = f->rsi;
    u64 *entry = leaf(s->kernel_cr3, f->rdi);
    u32 flush = f->rdx & UVMF_FLUSH_MASK;
    /* Of other vCPUs: all, or those of a bitmap. */
    u64 scope = flush == UVMF_TLB_FLUSH || flush == UVMF_INVLPG ? f->rdx & ~(u64)UVMF_FLUSH_MASK : 0;

    if (!entry || !sanitise(&value) || scope & ~UVMF_ALL)
        return HOST;
    store(entry, value, false);
    if (flush == UVMF_INVLPG)
        flush_page(s, f->rdi);
    else if (flush == UVMF_TLB_FLUSH)
        flush_all(s);
    if (scope && flush_others(s, ~0ul))
        return HOST;
    f->rax = 0;
    return DONE;
}

/* Check every entry of the table and of those below, and add the user bit. */
static int adopt(u64 mfn, u32 level, u32 *budget)
{
    u64 *table = machine(mfn << 12);

    if (!*budget)
        return HOST;
    --*budget;
    for (u32 slot = 0; slot < 512; slot++) {
        u64 value = __atomic_load_n(table + slot, __ATOMIC_SEQ_CST);
        if (!(value & PTE_PRESENT))
            continue;
        u64 below = (value & PTE_FRAME) >> 12;
        if (value & PTE_LARGE || !is_ram(below))
            return HOST;
        if (!(value & PTE_USER))
            __atomic_fetch_or(table + slot, PTE_USER, __ATOMIC_SEQ_CST);
        if (level > 1 && adopt(below, level - 1, budget))
            return HOST;
    }
    return DONE;
}

/* Whether a pin, a base pointer or the host has put the shim's entries into the L4 table. */
static bool has_shim(u64 mfn)
{
    const struct shim_domain *d = domain();
    const u64 *views[] = { d->kernel_slots, d->user_slots, d->pinned_slots, d->shared_slots };
    const u64 *table = (const u64 *)machine(mfn << 12) + XEN_FIRST;

    for (u32 slot = SHIM_L4_SLOTS; slot < XEN_SLOTS; slot++)
        if (table[slot])
            return false;
    for (u32 view = 0; view < 4; view++) {
        u32 slot = 0;
        while (slot < SHIM_L4_SLOTS && table[slot] == views[view][slot])
            slot++;
        if (slot == SHIM_L4_SLOTS)
            return true;
    }
    return false;
}

static void show(u64 mfn, const u64 slots[SHIM_L4_SLOTS])
{
    u64 *table = (u64 *)machine(mfn << 12) + XEN_FIRST;

    for (u32 slot = 0; slot < SHIM_L4_SLOTS; slot++)
        if (table[slot] != slots[slot])
            store(table + slot, slots[slot], false);
}

static int adopt_l4(state *s, u64 mfn)
{
    u64 *table = machine(mfn << 12);
    const u64 *known = NULL;
    u32 budget = MAX_TABLES;

    if (is_ram(s->kernel_cr3 >> 12) && s->kernel_cr3 >> 12 != mfn)
        known = machine(s->kernel_cr3);
    for (u32 slot = 0; slot < 512; slot++) {
        u64 value = __atomic_load_n(table + slot, __ATOMIC_SEQ_CST);
        if (is_xen_slot(slot) || !(value & PTE_PRESENT))
            continue;
        /* The kernel's half is shared: what the table in use holds was checked before. */
        if (known && slot > XEN_FIRST && value == known[slot])
            continue;
        u64 below = (value & PTE_FRAME) >> 12;
        if (value & PTE_LARGE || !is_ram(below))
            return HOST;
        if (!(value & PTE_USER))
            store(table + slot, value | PTE_USER, false);
        if (adopt(below, 3, &budget))
            return HOST;
    }
    if (!has_shim(mfn)) {
        show(mfn, domain()->pinned_slots);
        for (u32 slot = SHIM_L4_SLOTS; slot < XEN_SLOTS; slot++)
            store(table + XEN_FIRST + slot, 0, false);
    }
    return DONE;
}

int pin(state *s, u64 mfn, u32 level)
{
    u32 budget = MAX_TABLES;

    if (!is_ram(mfn) || (level == 4 ? adopt_l4(s, mfn) : adopt(mfn, level, &budget)))
        return HOST;
    *level_of(mfn) = (u8)level;
    return DONE;
}

bool is_pinned(u64 mfn)
{
    return is_ram(mfn) && *level_of(mfn);
}

/* A KVM that shadows tables interprets stores to what was one, 1,024 steps of the instruction by
 * which Linux clears a page. It lets go of a frame at a store by an instruction that is none for
 * page tables (retry_instruction() in arch/x86/kvm/x86.c); this one changes nothing. */
static void release(u64 mfn)
{
    __asm__ volatile("lock addq $0, %0" : "+m"(*(u64 *)machine(mfn << 12)));
}

int unpin(u64 mfn)
{
    if (!is_pinned(mfn))
        return HOST;
    if (*level_of(mfn) == 4)
        release(mfn);
    *level_of(mfn) = 0;
    return DONE;
}

int set_kernel_base(state *s, u64 mfn)
{
    /* In the kernel's ring 3 the dispatcher must be out of user code's sight. */
    if (!is_ram(mfn) || !has_shim(mfn) || (domain()->in_ring3 && mfn == s->user_cr3 >> 12))
        return HOST;
    show(mfn, domain()->kernel_slots);
    s->kernel_cr3 = mfn << 12;
    return DONE;
}

int set_user_base(state *s, u64 mfn)
{
    if (mfn) {
        if (!is_ram(mfn) || !has_shim(mfn)
            || (domain()->in_ring3
                && (mfn == s->kernel_cr3 >> 12 || mfn == s->loaded_cr3 >> 12)))
            return HOST;
        show(mfn, mfn == s->kernel_cr3 >> 12 ? domain()->shared_slots : domain()->user_slots);
    }
    s->user_cr3 = mfn << 12;
    return DONE;
}
