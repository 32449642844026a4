/* Runs calls, code of the kernel's and of a user's; all that traps comes to run_done. */
#include "sequence.h"

#define PF TRAP_PAGE_FAULT
#define FLAGS_TF EFL_TF
#define FLAGS_IF EFL_IF
/* What a kernel may have set. */
#define FLAGS_SOME (EFL_ID | EFL_AC | EFL_DF | EFL_ARITHMETIC)
#define NR_KERNEL 32
#define NR_USER 18
#define SYSCALL 0 /* the first snippet of both */

/* Part of the boot stack, where it never comes itself: this_cpu() must know it. */
static char *other_stack(void)
{
    return stacks[0] + 0x1c00 - below(64) * 8;
}

static bool on_trap(struct regs *regs);

static void note_regs(const struct regs *regs)
{
    const u64 *word = (const u64 *)regs;
    for (u32 i = 0; i < sizeof *regs / 8; i++)
        note(word[i]);
    note(shared_info->vcpu_info[0].evtchn_upcall_mask);
    if (regs->vector == PF)
        note(shared_info->vcpu_info[0].cr2);
    say("  trap %lu error %#lx rip %#lx cs %#lx rflags %#lx rsp %#lx ss %#lx rax %#lx rcx %#lx "
        "r11 %#lx cr2 %#lx", regs->vector, regs->error_code, regs->rip, regs->cs, regs->rflags,
        regs->rsp, regs->ss, regs->rax, regs->rcx, regs->r11, shared_info->vcpu_info[0].cr2);
}

/* Whatever it was, the kernel goes on at run_done. */
static bool on_trap(struct regs *regs)
{
    note_regs(regs);
    regs->rip = (u64)run_done;
    regs->cs = FLAT_KERNEL_CS & ~3ul;
    regs->ss = FLAT_KERNEL_SS;
    regs->rsp = (u64)stacks[0] + 0x1e00;
    regs->rflags &= ~FLAGS_TF;
    return true;
}

void run_init(void)
{
    user_init(user_code, 0, on_trap);
    trap_hook = on_trap;
}

static struct registers draw_registers(void)
{
    struct registers in;
    u64 *word = (u64 *)&in;
    for (u32 i = 0; i < sizeof in / 8; i++)
        word[i] = draw();
    in.rflags = (draw() & FLAGS_SOME) | FLAGS_IF;
    in.rsp = (u64)other_stack();
    return in;
}

static void run_and_note(const void *code, const struct registers *in)
{
    const u64 *word = (const u64 *)&after;
    run(code, in);
    /* A list that goes on elsewhere goes on by its arguments, as in Xen. */
    if (code == kernel_code)
        after.rdi = after.rsi = 0;
    for (u32 i = 0; i < sizeof after / 8; i++)
        note(word[i]);
    note(shared_info->vcpu_info[0].evtchn_upcall_mask);
    say("  after: rax %#lx rcx %#lx rdx %#lx r11 %#lx rflags %#lx rsp %#lx mask %u", after.rax,
        after.rcx, after.rdx, after.r11, after.rflags, after.rsp,
        shared_info->vcpu_info[0].evtchn_upcall_mask);
}

static const char *kernel_snippet(u64 index)
{
    return kernel_code + index * CODE_ROOM;
}

struct iret_frame {
    u64 rax, r11, rcx, flags, rip, cs, rflags, rsp, ss;
};

static void push_frame(struct registers *in, const struct iret_frame *frame)
{
    struct iret_frame *where = (struct iret_frame *)(in->rsp & ~7ul) - 1;
    in->rsp = (u64)where;
    *where = *frame;
}

void do_call(void)
{
    struct registers in = draw_registers();
    struct call call = draw_call(false);
    /* For an iret in a list, which is its end. */
    struct iret_frame frame = {
        0x1111, 0x2222, 0x3333, 0, (u64)run_done, FLAT_KERNEL_CS & ~3, 0x202, in.rsp, FLAT_KERNEL_SS,
    };
    push_frame(&in, &frame);
    in.rax = call.number;
    in.rdi = call.args[0];
    in.rsi = call.args[1];
    in.rdx = call.args[2];
    in.r10 = call.args[3];
    say("hypercall %lu %#lx %#lx %#lx %#lx", call.number, in.rdi, in.rsi, in.rdx, in.r10);
    run_and_note(kernel_snippet(SYSCALL), &in);
}

/* What the kernel touches must not be in the TLB from before. */
static void flush(void)
{
    struct mmuext_op op = {.cmd = MMUEXT_TLB_FLUSH_LOCAL};
    check_equal(mmuext_op(&op, 1, NULL, DOMID_SELF), 0);
}

/* Such that what it is written to is a table as good as before. */
static void draw_access(struct registers *in, bool jumps)
{
    static const u64 nowhere[] = {0x7f0000000000, 0x8000000000000000, 0, 0x123};
    in->rbx = jumps || one_in(4) ? nowhere[below(ARRAY_SIZE(nowhere))] : draw_window();
    in->rbp = pte(draw_data_mfn(), PTE_RW);
    in->rax = one_in(2) ? draw() & 0xfff8 & ~0xe000ul : draw();
    flush();
}

void do_kernel(void)
{
    struct registers in = draw_registers();
    u64 index = 1 + below(NR_KERNEL - 1);
    draw_access(&in, index == 10);
    say("kernel code %lu rbx %#lx rax %#lx", index, in.rbx, in.rax);
    run_and_note(kernel_snippet(index), &in);
}

static void run_iret(struct registers *in, const struct iret_frame *frame)
{
    push_frame(in, frame);
    in->rax = HYPERVISOR_iret;
    say("iret rip %#lx cs %#lx rflags %#lx rsp %#lx ss %#lx flags %#lx", frame->rip, frame->cs,
        frame->rflags, frame->rsp, frame->ss, frame->flags);
    run_and_note(kernel_snippet(SYSCALL), in);
}

static u64 draw_flags(void)
{
    return draw() & ~FLAGS_TF;
}

/* To the kernel's own code; selectors of any kind, but none of 32-bit code. */
void do_iret(void)
{
    static const u64 codes[] = {0xe033, 0xe030, 0xe033, 0xe030, 0xe008, 0xe02b, 0, 0x10, 0xffff};
    static const u64 datas[] = {0xe02b, 0xe028, 0xe02b, 0xe02b, 0xe010, 0xe033, 0, 0x18, 7};
    struct registers in = draw_registers();
    struct iret_frame frame = {
        draw(), draw(), draw(), draw() & 0x3ff, (u64)run_done,
        (codes[below(ARRAY_SIZE(codes))] & ~3ul) | (draw() << 16), draw_flags(),
        (u64)other_stack(), datas[below(ARRAY_SIZE(datas))] | (draw() << 16),
    };
    if (one_in(8))
        frame.rip = 0x8000000000000000 + below(16);
    run_iret(&in, &frame);
}

/* With tables and a stack that are sound, and all else as it comes. */
void do_user(void)
{
    struct registers in = draw_registers();
    u64 index = below(NR_USER);
    u64 root = draw_user_root();
    check_equal(new_baseptr(MMUEXT_NEW_USER_BASEPTR, root), 0);
    check_equal(hypercall(3, FLAT_KERNEL_SS, (u64)other_stack(), 0, 0, 0), 0);
    draw_access(&in, index == 10);
    struct iret_frame frame = {
        draw(), draw(), draw(), draw() & 0x1ff, USER_CODE + index * CODE_ROOM, FLAT_USER_CS,
        draw_flags(), one_in(2) ? USER_CODE + 2 * PAGE_SIZE - 64 : draw() >> 18, FLAT_USER_SS,
    };
    say("user code %lu rbx %#lx root %#lx", index, in.rbx, root);
    run_iret(&in, &frame);
}
