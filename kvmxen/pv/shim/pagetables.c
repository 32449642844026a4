/* Page tables, as kvmxen/pv/paging.pyx has them: each entry that is installed is checked and gets the
 * user bit. The store is the guest's own, so that a KVM that shadows its tables sees it.
 */
#include "dispatch.h"

/* Bounds a pin: a guest can make a walk meet the same tables again and again. */
#define MAX_TABLES 4096

static u64 *type_of(u64 mfn)
{
    return (u64 *)machine(domain()->types_gpa) + mfn;
}

bool is_table(u64 mfn)
{
    return is_ram(mfn) && *(volatile u64 *)type_of(mfn);
}

static u64 frame_of(u64 value)
{
    return (value & PTE_FRAME) >> 12;
}

static bool is_xen_slot(u64 slot)
{
    return slot - XEN_FIRST_SLOT < XEN_SLOTS;
}

/* Whether the value may be installed; adds the user bit. Frames shared with Xen are the host's. */
static bool sanitise(u64 *value)
{
    if (!(*value & PTE_PRESENT))
        return true;
    if (*value & PTE_LARGE || !is_ram(frame_of(*value)))
        return false;
    *value |= PTE_USER;
    return true;
}

/* Returns what the entry was. */
static u64 store(u64 *entry, u64 value, bool keep_ad)
{
    if (!keep_ad)
        return __atomic_exchange_n(entry, value, __ATOMIC_SEQ_CST);
    u64 old = __atomic_load_n(entry, __ATOMIC_SEQ_CST);
    while (!__atomic_compare_exchange_n(entry, &old, value | (old & (PTE_ACCESSED | PTE_DIRTY)),
                                        false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
    return old;
}

/* Put a view of Xen's slots into the L4 table. */
static void show(u64 mfn, const u64 slots[SHIM_L4_SLOTS])
{
    u64 *table = (u64 *)machine(mfn << 12) + XEN_FIRST_SLOT;

    for (u32 slot = 0; slot < SHIM_L4_SLOTS; slot++)
        if (table[slot] != slots[slot])
            store(table + slot, slots[slot], false);
}

/* A KVM that shadows tables interprets stores to what was one, 1,024 steps of the instruction by
 * which Linux clears a page. It lets go of a frame at a store by an instruction that is none for
 * page tables (retry_instruction() in arch/x86/kvm/x86.c); this one changes nothing. */
static void release(u64 mfn)
{
    __asm__ volatile("lock addq $0, %0" : "+m"(*(u64 *)machine(mfn << 12)));
}

static void unlink(u64 mfn, u32 level);

/* The frame is no table of `level` any more: nor does what its first `count` entries hold lead to
 * others. */
static void drop(u64 mfn, u32 level, u32 count)
{
    const u64 *table = machine(mfn << 12);

    if (level == 4)
        release(mfn);
    if (level == 1)
        return;
    for (u32 slot = 0; slot < count; slot++) {
        u64 value = *(const volatile u64 *)(table + slot);
        if (value & PTE_PRESENT && is_ram(frame_of(value)) && !(level == 4 && is_xen_slot(slot)))
            unlink(frame_of(value), level - 1);
    }
}

/* One that led to the frame as to a table of `level` is gone. */
static void unlink(u64 mfn, u32 level)
{
    if (type_put(type_of(mfn), (int)level))
        drop(mfn, level, 512);
}

static int link(u64 mfn, u32 level, u32 *budget);

/* The frame becomes a table of `level`: check every entry, add the user bit, count what it leads to.
 */
static int adopt(u64 mfn, u32 level, u32 *budget)
{
    u64 *table = machine(mfn << 12);
    u32 slot;

    if (!*budget)
        return HOST;
    --*budget;
    for (slot = 0; slot < 512; slot++) {
        u64 value = __atomic_load_n(table + slot, __ATOMIC_SEQ_CST);
        if (!(value & PTE_PRESENT) || (level == 4 && is_xen_slot(slot)))
            continue;
        if (value & PTE_LARGE || !is_ram(frame_of(value)))
            break;
        if (!(value & PTE_USER))
            __atomic_fetch_or(table + slot, PTE_USER, __ATOMIC_SEQ_CST);
        if (level > 1 && link(frame_of(value), level - 1, budget))
            break;
    }
    if (slot < 512) {
        drop(mfn, level, slot);
        return HOST;
    }
    if (level == 4) {
        show(mfn, domain()->pinned_slots);
        for (slot = SHIM_L4_SLOTS; slot < XEN_SLOTS; slot++)
            store(table + XEN_FIRST_SLOT + slot, 0, false);
    }
    return DONE;
}

/* One more leads to the frame as to a table of `level`. */
static int link(u64 mfn, u32 level, u32 *budget)
{
    if (!type_get(type_of(mfn), (int)level) || adopt(mfn, level, budget) == DONE)
        return DONE;
    type_put(type_of(mfn), (int)level);
    return HOST;
}

/* The entry `value` of a table of that type is gone, as one of levels up to `top`. */
static void unlink_entry(u64 type, u64 value, u32 top)
{
    if (!(value & PTE_PRESENT) || !is_ram(frame_of(value)))
        return;
    for (u32 level = 2; level <= top; level++)
        if (type_is(type, (int)level))
            unlink(frame_of(value), level - 1);
}

/* The entry `value` is about to come to a table of that type. */
static int link_entry(u64 type, u64 value)
{
    u32 budget = MAX_TABLES;

    if (!(value & PTE_PRESENT))
        return DONE;
    for (u32 level = 2; level <= 4; level++)
        if (type_is(type, (int)level) && link(frame_of(value), level - 1, &budget)) {
            unlink_entry(type, value, level - 1);
            return HOST;
        }
    return DONE;
}

static int update(u64 gpa, u64 value, bool keep_ad)
{
    u64 mfn = gpa >> 12, type, old;

    if (gpa & 7 || !is_ram(mfn))
        return HOST;
    if (!sanitise(&value))
        return HOST;
    type = *(volatile u64 *)type_of(mfn);
    if (!(type & TYPE_UPPER)) {
        store(machine(gpa), value, keep_ad);
        return DONE;
    }
    if ((type_is(type, 4) && is_xen_slot((gpa & 0xfff) >> 3)) || link_entry(type, value))
        return HOST;
    old = store(machine(gpa), value, keep_ad);
    unlink_entry(type, old, 4);
    return DONE;
}

/* struct mmu_update (xen/include/public/xen.h): two words. */
static int mmu_update(state *s, const u64 *words)
{
    (void)s;
    u64 kind = words[0] & 3, pointer = words[0] & ~3ul;

    if (kind != MMU_MACHPHYS_UPDATE)
        return update(pointer, words[1], kind == MMU_PT_UPDATE_PRESERVE_AD);
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
    u32 flush = f->rdx & UVMF_FLUSHTYPE_MASK;
    /* Of other vCPUs: all, or those of a bitmap. */
    u64 scope = flush == UVMF_TLB_FLUSH || flush == UVMF_INVLPG ? f->rdx & ~(u64)UVMF_FLUSHTYPE_MASK : 0;

    if (!entry || *type_of(((u64)entry - PHYSMAP_VA) >> 12) & TYPE_UPPER || !sanitise(&value)
        || scope & ~(u64)UVMF_ALL)
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

int pin(u64 mfn, u32 level)
{
    u32 budget = MAX_TABLES;

    if (!is_ram(mfn) || link(mfn, level, &budget))
        return HOST;
    u64 old = type_pin(type_of(mfn), (int)level);
    u32 other = (u32)type_pinned(old);
    /* The pin is what keeps it now. */
    unlink(mfn, level);
    if (other && other != level && !(old & TYPE_COUNT(other)))
        drop(mfn, other, 512);
    return DONE;
}

/* Whether nothing but this pin, or this base pointer, makes a table of the L4 that the CPU has
 * loaded: the host has to load another before that goes. */
static bool is_last(const state *s, u64 mfn, u64 use)
{
    return mfn == s->loaded_cr3 >> 12
           && (*type_of(mfn) & (TYPE_COUNT(4) | TYPE_PINNED(4))) == use;
}

int unpin(const state *s, u64 mfn)
{
    if (!is_ram(mfn) || !type_pinned(*type_of(mfn)) || is_last(s, mfn, TYPE_PINNED(4)))
        return HOST;
    u64 old = type_pin(type_of(mfn), 0);
    u32 level = (u32)type_pinned(old);
    if (level && !(old & TYPE_COUNT(level)))
        drop(mfn, level, 512);
    return DONE;
}

/* The base pointer `cr3` goes from one L4 to another, either of which may be none. */
static int move_base(state *s, u64 *cr3, u64 mfn)
{
    u32 budget = MAX_TABLES;
    u64 old = *cr3 >> 12;

    if (mfn != old && is_ram(old) && is_last(s, old, TYPE_COUNT(4) & -TYPE_COUNT(4)))
        return HOST;
    if (mfn && (!is_ram(mfn) || link(mfn, 4, &budget)))
        return HOST;
    *cr3 = mfn << 12;
    if (is_ram(old))
        unlink(old, 4);
    return DONE;
}

int set_kernel_base(state *s, u64 mfn)
{
    /* In the kernel's ring 3 the dispatcher must be out of user code's sight. */
    if (!mfn || (domain()->in_ring3 && mfn == s->user_cr3 >> 12)
        || move_base(s, &s->kernel_cr3, mfn))
        return HOST;
    show(mfn, domain()->kernel_slots);
    return DONE;
}

int set_user_base(state *s, u64 mfn)
{
    if (mfn && domain()->in_ring3 && (mfn == s->kernel_cr3 >> 12 || mfn == s->loaded_cr3 >> 12))
        return HOST;
    if (move_base(s, &s->user_cr3, mfn))
        return HOST;
    if (mfn)
        show(mfn, mfn == s->kernel_cr3 >> 12 ? domain()->shared_slots : domain()->user_slots);
    return DONE;
}
