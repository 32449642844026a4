/* The frames by which the guest's kernel is entered and left, as kvmxen/pv/bounce.pyx makes them:
 * xen/arch/x86/x86_64/entry.S (create_bounce_frame) and struct iret_context of
 * xen/include/public/arch-x86/xen-x86_64.h.
 */
#include "dispatch.h"

int bounce(state *s, frame *f, const struct shim_handler *handler, const u64 *error_code)
{
    u64 words[8];
    u32 n = 0;
    u8 *info = vcpu_info(s);
    u8 masked = info[VCPU_INFO_UPCALL_MASK];
    u64 sp = s->kernel_mode ? f->rsp : s->kernel_sp;
    u64 cs = s->kernel_mode ? f->cs & ~3ul : f->cs;
    u64 iopl = s->architectural_iopl ? (u64)s->iopl << EFL_IOPL_SHIFT & EFL_IOPL : 0;

    if (!handler->address || !is_canonical(handler->address) || !is_ram(s->kernel_cr3 >> 12))
        return HOST;
    sp &= ~15ul;
    words[n++] = f->ss;
    words[n++] = f->rsp;
    words[n++] = (f->rflags & ~(EFL_IF | EFL_IOPL)) | iopl | (masked ? 0 : EFL_IF);
    words[n++] = (cs & 0xffff) | (u64)masked << 32;
    words[n++] = f->rip;
    if (error_code)
        words[n++] = *error_code;
    words[n++] = f->r11;
    words[n++] = f->rcx;

    /* The frame lies in one page, or in two: both must be there before the first word is. */
    u64 low = sp - n * 8;
    char *first = translate(s->kernel_cr3, low, true);
    char *last = first;
    if ((low ^ (sp - 8)) >> 12)
        last = translate(s->kernel_cr3, sp - 8, true);
    if (!first || !last)
        return HOST;
    for (u32 i = 0; i < n; i++) {
        u64 va = sp - (i + 1) * 8;
        char *page = (va ^ low) >> 12 ? last : first;
        *(u64 *)(((u64)page & ~0xffful) + (va & 0xfff)) = words[i];
    }
    if (handler->mask_events)
        info[VCPU_INFO_UPCALL_MASK] = 1;
    s->kernel_mode = 1;
    f->rip = handler->address;
    f->rsp = low;
    f->rflags = (f->rflags
                 & ~(EFL_TF | EFL_NT | EFL_RF | EFL_VM | EFL_AC | EFL_IOPL)) | EFL_IF;
    f->cs = FLAT_RING3_CS64;
    f->ss = FLAT_RING3_SS;
    return DONE;
}

int hypercall_iret(state *s, frame *f)
{
    u64 words[9];
    u64 at = f->rsp;
    const u64 *first = at & 7 ? NULL : translate(s->kernel_cr3, at, false);
    const u64 *page = first;

    if (!first)
        return HOST;
    for (u32 i = 0; i < 9; i++, at += 8) {
        if (i && !(at & 0xfff)) {
            page = translate(s->kernel_cr3, at, false);
            if (!page)
                return HOST;
        }
        words[i] = *(const volatile u64 *)(((u64)page & ~0xffful) + (at & 0xfff));
    }
    u64 rflags = words[6];
    bool to_user = (words[5] & 3) == 3;
    u64 cs = (words[5] & 0xffff) | 3, ss = (words[8] & 0xffff) | 3;
    if (!is_canonical(words[4]) || !may_return_to(f, cs, ss)
        || (to_user && !is_ram(s->user_cr3 >> 12)))
        return HOST;
    if (s->sent_to_itself && rflags & EFL_IF && vcpu_info(s)[VCPU_INFO_UPCALL_PENDING]) {
        bool again = words[4] == s->upcall_rip && words[7] == s->upcall_rsp;
        if (again && s->upcalls == SHIM_EVENT_LOOP - 1)
            return HOST;
        s->upcall_rip = words[4];
        s->upcall_rsp = words[7];
        s->upcalls = again ? s->upcalls + 1 : 1;
    } else {
        s->upcalls = 0;
    }
    s->sent_to_itself = 0;
    if (to_user)
        s->kernel_mode = 0;
    if (s->architectural_iopl)
        s->iopl = rflags >> EFL_IOPL_SHIFT & 3;
    f->rax = words[0];
    f->r11 = words[3] & VGCF_in_syscall ? rflags : words[1];
    f->rcx = words[3] & VGCF_in_syscall ? words[4] : words[2];
    f->rip = words[4];
    f->cs = cs;
    f->rflags = (rflags & ~(EFL_IOPL | EFL_VM | EFL_VIF_VIP) & EFL_ALL)
                | EFL_IF | EFL_FIXED;
    f->rsp = words[7];
    f->ss = ss;
    vcpu_info(s)[VCPU_INFO_UPCALL_MASK] = rflags & EFL_IF ? 0 : 1;
    return DONE;
}
