/* Loads from the machine-to-physical table at HYPERVISOR_VIRT_START, which ring 3 of some hosts cannot reach, done
 * for the guest's kernel, as kvmxen/pv/m2p.py has them.
 */
#include "dispatch.h"

#define OPCODE_mov_load 0x8b
#define IS_REX(byte) (((byte) & 0xf0) == 0x40)
#define REX_B 1u
#define REX_X 2u
#define REX_R 4u
#define REX_W 8u
#define SIB_FOLLOWS 4u
#define NO_INDEX 4u
#define NO_BASE 5u /* without a displacement of its own */
/* REX, opcode, ModRM, SIB, displacement. */
#define LONGEST 8u

struct load {
    u64 *into;
    u32 size, length;
    u64 address;
};

static u64 *register_of(frame *f, u32 number)
{
#define AT(name) offsetof(frame, name)
    static const u8 offsets[] = {
        AT(rax), AT(rcx), AT(rdx), AT(rbx), AT(rsp), AT(rbp), AT(rsi), AT(rdi),
        AT(r8), AT(r9), AT(r10), AT(r11), AT(r12), AT(r13), AT(r14), AT(r15),
    };
    return (u64 *)((char *)f + offsets[number]);
}

/* How many bytes of code there are at RIP. */
static u32 fetch(const state *s, u64 rip, u8 code[LONGEST])
{
    const u8 *from = NULL;

    for (u32 i = 0; i < LONGEST; i++) {
        if (!from || !((rip + i) & 0xfff))
            from = translate(s->kernel_cr3, rip + i, false);
        if (!from)
            return i;
        code[i] = *(const volatile u8 *)from++;
    }
    return LONGEST;
}

/* `mov mem, reg` of 32 or 64 bits without a prefix but REX. */
static int decode(const state *s, frame *f, struct load *l)
{
    u8 code[LONGEST] = { 0 };
    u32 there = fetch(s, f->rip, code), at = 0, rex = 0;

    if (IS_REX(code[at]))
        rex = code[at++];
    if (code[at++] != OPCODE_mov_load)
        return HOST;
    u32 modrm = code[at++], mod = modrm >> 6, base = modrm & 7;
    l->address = 0;
    if (mod == 3 || (base == NO_BASE && !mod))
        return HOST;
    if (base == SIB_FOLLOWS) {
        u32 sib = code[at++], index = (sib >> 3 & 7) | (rex & REX_X ? 8 : 0);
        base = sib & 7;
        if (index != NO_INDEX)
            l->address = *register_of(f, index) << (sib >> 6);
    }
    bool has_base = base != NO_BASE || mod;
    if (has_base)
        l->address += *register_of(f, base | (rex & REX_B ? 8 : 0));
    if (mod == 1) {
        l->address += (u64)(int8_t)code[at++];
    } else if (mod == 2 || !has_base) {
        l->address += (u64)(int32_t)(code[at] | code[at + 1] << 8 | code[at + 2] << 16
                                     | (u32)code[at + 3] << 24);
        at += 4;
    }
    if (at > there)
        return HOST;
    l->into = register_of(f, (modrm >> 3 & 7) | (rex & REX_R ? 8 : 0));
    l->size = rex & REX_W ? 8 : 4;
    l->length = at;
    return DONE;
}

/* The kernel's read at CR2 has found nothing. */
int read_xen_m2p(const state *s, frame *f)
{
    u64 offset = f->cr2 - HYPERVISOR_VIRT_START;
    u64 bytes = domain()->types_gpa - domain()->m2p_gpa;
    struct load l;

    /* A kernel that steps through itself is to get its #DB. */
    if (offset >= bytes || f->rflags & EFL_TF || decode(s, f, &l) || l.address != f->cr2
        || bytes - offset < l.size)
        return HOST;
    const void *entry = (const void *)(M2P_VA + offset);
    *l.into = l.size == 8 ? *(const volatile u64 *)entry : *(const volatile u32 *)entry;
    f->rip += l.length;
    return DONE;
}
