/*
 * User code tries to get at the shim, its kernel and the machine, and each time its kernel gets
 * the trap and is none the worse. Command line: parts=, the machine address of the first vCPU's
 * part of the shim, and xenheap=, that of the shim's end. With two vCPUs the second has the first
 * flush its translations, so that user code is interrupted anywhere.
 */
#include "pv/shim/abi.h"
#include "confined.h"

#define FETCH 16
#define STACK_TOP (USER_STACK_TOP - 256)
#define BLOCK (USER_STACK_TOP - 2048) /* registers for user_syscall_with */
#define KERNEL_MAGIC 0x6b65726e656c
#define NT EFL_NT /* of rflags */
#define RANDOM_CALLS 300
#define LATE_CALLS 12
#define TABLES 12

void user_enter(u64 rip, u64 rsp, u64 argument);
__attribute__((noreturn)) void user_leave(void);

static u64 tables[TABLES][512] __attribute__((aligned(PAGE_SIZE)));
static u32 tables_used;
static u64 code[512] __attribute__((aligned(PAGE_SIZE)));
static u64 stack[512] __attribute__((aligned(PAGE_SIZE)));
static u64 breakpoints[512] __attribute__((aligned(PAGE_SIZE)));
static u64 canary[512] __attribute__((aligned(PAGE_SIZE)));
static u64 kernel_gs[1] = {KERNEL_MAGIC};

static struct regs got;
static bool called; /* by SYSCALL */
static const char *name;
static u64 subject, parts, xenheap, digest;
static volatile bool done;

static bool on_trap(struct regs *regs)
{
    if (!from_user(regs))
        return false;
    called = false;
    got = *regs;
    user_leave();
}

static bool on_syscall(struct regs *regs)
{
    called = true;
    got = *regs;
    return false;
}

static u64 kernels_state(void)
{
    const u64 *l4 = (const u64 *)start_info->pt_base;
    u64 sum = 0;
    for (u32 i = 0; i < 512; i++) {
        sum = sum * 31 + (l4[i] & ~(PTE_ACCESSED | PTE_DIRTY));
        sum = sum * 31 + canary[i];
    }
    return sum;
}

#define expect(condition)                                                                          \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail("%s %#lx: not %s (%s, vector %lu error %#lx rip %#lx cr2 %#lx)", name, subject,   \
                 #condition, called ? "system call" : "trap", got.vector, got.error_code,          \
                 got.rip, this_vcpu()->cr2);                                                       \
    } while (0)

static void enter(const char *what, u64 rip, u64 argument)
{
    u64 gs;
    name = what;
    subject = argument;
    user_enter(rip, STACK_TOP, argument);
    upcalls_on();
    __asm__ volatile("mov %%gs:0, %0" : "=r"(gs));
    expect(gs == KERNEL_MAGIC);
    expect((got.cs & 0xffff) == FLAT_USER_CS);
    expect(!called || got.rax != SURVIVED || got.rbx == USER_MAGIC);
}

static u64 at(const char *label)
{
    return USER_CODE + (u64)(label - user_start);
}

static bool ended_by(u64 ends)
{
    if (called)
        return ends & HARMLESS && got.rax == SURVIVED;
    return got.vector >= 32 ? ends & GIVEN : ends >> got.vector & 1;
}

static void instructions(void)
{
    for (const struct attempt *attempt = attempts; attempt < attempts_end; attempt++) {
        enter(attempt->name, USER_CODE + attempt->offset, SHIM_VA + GATE_IRET);
        expect(ended_by((u32)attempt->ends));
        expect(kernels_state() == digest);
    }
}

/* The pages behind LSTAR are user code's too on some hosts, to be executed. */
static bool is_syscall_page(u64 va)
{
    u64 offset = va - SHIM_VA - parts;
    return va >= SHIM_VA + parts && va < SHIM_VA + xenheap &&
           offset % VCPU_SIZE - VCPU_SYSCALL_PAGE < PAGE_SIZE;
}

/* Whether something is there, and if it is as it should be, is not user code's business. */
static void expect_fault(u64 va, u64 error_code)
{
    expect(!called);
    if (!is_canonical(va)) {
        expect(got.vector == TRAP_GENERAL_PROTECTION || got.vector == 12);
        return;
    }
    expect(got.vector == TRAP_PAGE_FAULT);
    expect((got.error_code & (PF_USER | PF_WRITE | FETCH)) == (PF_USER | error_code));
    expect(this_vcpu()->cr2 == va);
}

static void reach(u64 va)
{
    enter("read", at(user_read), va);
    if (!is_syscall_page(va))
        expect_fault(va, 0);
    enter("write", at(user_write), va);
    expect_fault(va, PF_WRITE);
    enter("push", at(user_push), va + 8);
    expect_fault(va, PF_WRITE);
    enter("jump", at(user_jump), va);
    if (!is_syscall_page(va)) {
        expect_fault(va, FETCH);
        expect(got.rip == va || !is_canonical(va));
    }
}

static void addresses(void)
{
    static const u64 slots[] = {HYPERVISOR_VIRT_START, M2P_VA, SHIM_VA, PHYSMAP_VA};
    for (u64 page = 0; page < xenheap + 4 * PAGE_SIZE; page += PAGE_SIZE) {
        reach(SHIM_VA + page);
        reach(SHIM_VA + page + page % 511 * 8);
        reach(PHYSMAP_VA + page);
        expect(kernels_state() == digest);
    }
    for (u64 offset = 0; offset < VCPU_SIZE; offset += 64)
        reach(SHIM_VA + parts + offset);
    for (u64 offset = 0; offset < DISPATCHER_SIZE; offset += 16)
        reach(SHIM_VA + DISPATCHER + offset);
    for (u32 slot = 0; slot < 16; slot++)
        for (u32 shift = 12; shift < 39; shift += 3)
            reach(HYPERVISOR_VIRT_START + ((u64)slot << 39) + (1ul << shift));
    for (u32 i = 0; i < ARRAY_SIZE(slots); i++) {
        reach(slots[i]);
        reach(slots[i] + (va_to_mfn(canary) << PAGE_SHIFT));
        reach(slots[i] + 8 * va_to_mfn(canary));
        reach(slots[i] + (va_to_mfn((void *)start_info->pt_base) << PAGE_SHIFT) + 256 * 8);
        reach(slots[i] + start_info->shared_info);
    }
    reach(VIRT_BASE);
    reach((u64)canary);
    reach((u64)shared_info);
    reach(start_info->pt_base);
    reach(start_info->mfn_list);
    reach((u64)stacks);
    reach((u64)on_trap);
    reach(0x8000000000000000);
    reach(0xffff7ffffffffff0);
    reach(0x0000800000000000);
}

/* Breakpoints at addresses whose low halves are the dispatcher's. */
static void breakpoint_twins(void)
{
    static const u32 offsets[] = {DISPATCHER_LEAVE, DISPATCHER_GATE, DISPATCHER_EXIT};
    for (u64 high = 0; high < 2; high++)
        for (u32 i = 0; i < ARRAY_SIZE(offsets); i++) {
            u64 va = high << 32 | (DISPATCHER + offsets[i]);
            enter("a breakpoint", va, va);
            expect(!called && got.vector == TRAP_BREAKPOINT && got.rip == va + 1);
        }
}

static u64 draw(void)
{
    static u64 seed = 0x9e3779b97f4a7c15;
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static u64 draw_value(void)
{
    static const u64 edges[] = {
        SHIM_VA, PHYSMAP_VA, 0x8000000000000000, ~0ul, 0x00007fffffffffff, DISPATCHER, VIRT_BASE,
    };
    switch (draw() % 4) {
    case 0:
        return draw() % 64;
    case 1:
        return edges[draw() % ARRAY_SIZE(edges)];
    case 2:
        return SHIM_VA + parts + draw() % VCPU_SIZE;
    default:
        return draw();
    }
}

/* A system call is one whatever the registers say: a hypercall's number, a stack anywhere. */
static void system_calls(void)
{
    static const u64 flags[] = {0x202, 0x602, 0x40202, 0x4202, 0x200a97, 0x200202};
    u64 *block = &stack[(BLOCK - (USER_STACK_TOP - PAGE_SIZE)) / 8];
    for (u32 i = 0; i < RANDOM_CALLS; i++) {
        for (u32 word = 0; word < 15; word++)
            block[word] = draw_value();
        block[9] = i < 64 ? i : block[9];
        block[13] = flags[i % ARRAY_SIZE(flags)];
        enter("a system call", at(user_syscall_with), BLOCK);
        /* Some hosts run a breakpoint in ring 3, as behind LSTAR, only on a canonical stack. */
        if (!called && got.vector == TRAP_INVALID_OPCODE && !is_canonical(block[14]))
            continue;
        expect(called);
        u64 seen[] = {got.r15, got.r14, got.r13, got.r12, got.rbp, got.rbx, got.r10, got.r9,
                      got.r8,  got.rax, got.rdx, got.rsi, got.rdi, got.rflags, got.rsp};
        /* Some hosts lose NT of user code that they interrupt. */
        seen[13] |= block[13] & NT;
        for (u32 word = 0; word < ARRAY_SIZE(seen); word++) {
            subject = word;
            expect(seen[word] == block[word]);
        }
        expect(got.rip == at(user_breakpoint) && got.rcx == got.rip);
        expect(got.r11 == got.rflags);
    }
}

/* Some hosts interpret user code whose stack is not canonical once they have interrupted it. */
static void late_system_calls(void)
{
    for (u32 i = 0; i < LATE_CALLS; i++) {
        enter("a late system call", at(user_late_syscall), (u64)(i + 1) << 56);
        expect(called || got.vector == TRAP_INVALID_OPCODE);
        expect(!called || got.rsp == (u64)(i + 1) << 56);
    }
}

static void map(u64 va, const void *page)
{
    u64 *table = tables[0];
    for (u32 shift = 39; shift > PAGE_SHIFT; shift -= 9) {
        u64 *entry = &table[va >> shift & 511];
        if (!*entry)
            *entry = pte(va_to_mfn(tables[++tables_used]), PTE_RW);
        check(tables_used < TABLES);
        table = mfn_to_va((*entry & PTE_FRAME) >> PAGE_SHIFT);
    }
    table[va >> PAGE_SHIFT & 511] = pte(va_to_mfn(page), PTE_RW);
}

static void prepare(void)
{
    size_t size = (size_t)(user_end - user_start);
    user_init(user_start, size, on_syscall);
    memcpy(code, user_start, size);
    memset(breakpoints, 0xcc, sizeof breakpoints);
    memcpy((char *)breakpoints + DISPATCHER_GATE, user_breakpoint, 1);
    tables_used = 0;
    map(USER_CODE, code);
    map(USER_STACK_TOP - PAGE_SIZE, stack);
    map(DISPATCHER, breakpoints);
    map(1ul << 32 | DISPATCHER, breakpoints);
    for (u32 i = 0; i <= tables_used; i++)
        check_equal(make_read_only(tables[i]), 0);
    u64 root = va_to_mfn(tables[0]);
    check_equal(pin_table(4, root), 0);
    check_equal(new_baseptr(MMUEXT_NEW_USER_BASEPTR, root), 0);
    check_equal(set_segment_base(SEGBASE_GS_KERNEL, (u64)kernel_gs), 0);
    check_equal(set_segment_base(SEGBASE_GS_USER, USER_STACK_TOP - PAGE_SIZE), 0);
    stack[0] = USER_MAGIC;
    for (u32 i = 0; i < ARRAY_SIZE(canary); i++)
        canary[i] = draw();
    digest = kernels_state();
    trap_hook = on_trap;
}

static void interrupt_others(u32 cpu)
{
    struct mmuext_op flush = {.cmd = MMUEXT_TLB_FLUSH_ALL};
    (void)cpu;
    while (!done)
        mmuext_op(&flush, 1, NULL, DOMID_SELF);
    vcpu_op(VCPUOP_down, 1, NULL);
}

void guest_main(void)
{
    parts = option("parts", 0);
    xenheap = option("xenheap", 0);
    check(parts && xenheap > parts);
    prepare();
    if (cpu_count() > 1)
        check_equal(cpu_start(1, interrupt_others), 0);
    instructions();
    breakpoint_twins();
    system_calls();
    late_system_calls();
    addresses();
    done = true;
    expect(kernels_state() == digest);
    print("SUCCESS\n");
}
