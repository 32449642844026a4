/* Instructions of a guest's kernel that trap because it runs in ring 3, as kvmxen/pv/emulate.py has
 * them: those that Linux has by the thousand before it patches itself, port I/O, and CPUID where
 * the host has given the answer before.
 */
#include "dispatch.h"

#define OPCODE_cli 0xfa
#define OPCODE_sti 0xfb
#define OPERAND_16 0x66
#define OPCODE_inb 0xec
#define OPCODE_inl 0xed
#define OPCODE_outb 0xee
#define OPCODE_outl 0xef
#define SECOND_HYPERVISOR 0x40000100u
#define LAST_HYPERVISOR 0x4000ffffu
#define PIT_FIRST 0x40u
#define PIT_PORTS 4u

/* Of the ports that %dx names there is nothing behind but what stops a PIT. */
static u64 port_value(const frame *f)
{
    return (f->rdx & 0xffff) - PIT_FIRST < PIT_PORTS ? 0 : 0xffffffff;
}

static const u8 forced_cpuid[] = { 0x0f, 0x0b, 'x', 'e', 'n', 0x0f, 0xa2 };

/* What its I/O bitmap may allow the kernel beyond this is the host's. */
static bool iopl_suffices(const state *s)
{
    return s->architectural_iopl || s->iopl;
}

int general_protection(state *s, frame *f)
{
    const u8 *code = translate(s->kernel_cr3, f->rip, false);

    if (f->error_code || !s->kernel_mode || !code || !iopl_suffices(s))
        return HOST;
    u32 length = 1;
    bool operand16 = *code == OPERAND_16;
    if (operand16) {
        if ((f->rip & 0xfff) == 0xfff || (code[1] != OPCODE_inl && code[1] != OPCODE_outl))
            return HOST;
        code++;
        length++;
    }
    switch (*code) {
    case OPCODE_inb:
        f->rax = (f->rax & ~0xfful) | (port_value(f) & 0xff);
        break;
    case OPCODE_inl:
        f->rax = operand16 ? (f->rax & ~0xfffful) | (port_value(f) & 0xffff) : port_value(f);
        break;
    case OPCODE_cli:
    case OPCODE_sti:
    case OPCODE_outb:
    case OPCODE_outl:
        break;
    default:
        return HOST;
    }
    f->rip += length;
    return DONE;
}

static int cpuid(frame *f, u32 eax, u32 ebx, u32 ecx, u32 edx)
{
    f->rax = eax;
    f->rbx = ebx;
    f->rcx = ecx;
    f->rdx = edx;
    f->rip += sizeof forced_cpuid;
    return DONE;
}

int invalid_opcode(state *s, frame *f)
{
    const u8 *code = translate(s->kernel_cr3, f->rip, false);
    u32 known = s->cpuids < SHIM_CPUIDS ? s->cpuids : SHIM_CPUIDS;

    if (!s->kernel_mode || !code || (f->rip & 0xfff) > PAGE_SIZE - sizeof forced_cpuid)
        return HOST;
    for (u32 i = 0; i < sizeof forced_cpuid; i++)
        if (code[i] != forced_cpuid[i])
            return HOST;
    /* Guests look for Xen in steps of 256 leaves; it is at the first. */
    if ((u32)f->rax >= SECOND_HYPERVISOR && (u32)f->rax <= LAST_HYPERVISOR)
        return cpuid(f, 0, 0, 0, 0);
    for (u32 i = 0; i < known; i++) {
        const struct shim_cpuid *answer = &s->cpuid[i];
        if (answer->leaf != (u32)f->rax
            || answer->subleaf != ((u32)f->rcx & answer->subleaf_mask))
            continue;
        return cpuid(f, answer->eax, answer->ebx, answer->ecx, answer->edx);
    }
    return HOST;
}
