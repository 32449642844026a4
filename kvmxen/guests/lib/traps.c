/* Exceptions: the trap table, probes, and the register dump of a trap that nobody expected. */
#include "entry.h"
#include "guest.h"

trap_handler trap_hook;
struct probe probe;

void dispatch(struct regs *regs);
void failsafe(void);
void upcall(void);
void user_syscall(struct regs *regs);
extern char failsafe_entry[];

static const char *const names[] = {
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", NULL,  "#TS",
    "#NP", "#SS", "#GP", "#PF", NULL,  "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
};

__attribute__((noreturn)) static void dump(const struct regs *r)
{
    const char *name = r->vector < ARRAY_SIZE(names) ? names[r->vector] : NULL;
    print("trap %lu %s error %#lx cr2 %#lx cpu %u\n"
          "rip %#lx cs %#lx rflags %#lx rsp %#lx ss %#lx\n"
          "rax %016lx rbx %016lx rcx %016lx rdx %016lx\n"
          "rsi %016lx rdi %016lx rbp %016lx r8  %016lx\n",
          r->vector, name ? name : "", r->error_code, this_vcpu()->cr2, this_cpu(), r->rip, r->cs,
          r->rflags, r->rsp, r->ss, r->rax, r->rbx, r->rcx, r->rdx, r->rsi, r->rdi, r->rbp, r->r8);
    print("r9  %016lx r10 %016lx r11 %016lx r12 %016lx\n"
          "r13 %016lx r14 %016lx r15 %016lx\n",
          r->r9, r->r10, r->r11, r->r12, r->r13, r->r14, r->r15);
    fail("unexpected trap %lu %s at %#lx", r->vector, name ? name : "", r->rip);
}

void dispatch(struct regs *regs)
{
    if (regs->vector == EVENT_UPCALL)
        return upcall();
    if (regs->vector == USER_SYSCALL)
        return user_syscall(regs);
    if (probe.resume && !from_user(regs)) {
        probe.vector = regs->vector;
        probe.error_code = regs->error_code;
        probe.rip = regs->rip;
        probe.cs = regs->cs;
        probe.rflags = regs->rflags;
        probe.cr2 = this_vcpu()->cr2;
        regs->rip = probe.resume;
        return;
    }
    if (!trap_hook || !trap_hook(regs))
        dump(regs);
}

void failsafe(void)
{
    fail("the failsafe callback was called");
}

u64 probe_read(const void *va)
{
    u64 value = 0;
    probe_arm();
    __asm__ volatile(GUARDED("mov (%1), %0") : "+r"(value) : "r"(va) : "memory");
    return value;
}

void probe_write(void *va, u64 value)
{
    probe_arm();
    __asm__ volatile(GUARDED("mov %0, (%1)") : : "r"(value), "r"(va) : "memory");
}

void trap_table(struct trap_info table[257])
{
    for (u32 vector = 0; vector < 256; vector++) {
        bool open = vector == TRAP_BREAKPOINT || vector == TRAP_OVERFLOW || vector >= 32;
        table[vector] = (struct trap_info){
            .vector = (u8)vector,
            .flags = TI_IF | (open ? 3 : 0),
            .cs = FLAT_KERNEL_CS,
            .address = trap_stubs[vector],
        };
    }
    table[256] = (struct trap_info){0};
}

void traps_init(void)
{
    static struct trap_info table[257];
    trap_table(table);
    check_equal(set_trap_table(table), 0);
    struct callback_register callback = {CALLBACKTYPE_failsafe, 0, (u64)failsafe_entry};
    check_equal(callback_op(CALLBACKOP_register, &callback), 0);
}
