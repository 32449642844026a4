/*
 * 32-bit user code: what its `int n`, SYSCALL and SYSENTER are to its kernel, with the callbacks
 * and before there are any. SYSCALL of 32-bit code is AMD's, SYSENTER in long mode Intel's: on the
 * other's CPUs they are no instructions. An emulated AMD CPU may have SYSENTER all the same, and be
 * lost when it steps through it.
 */
#include "guest.h"

#include "compat.h"

#define UD TRAP_INVALID_OPCODE
#define GP TRAP_GENERAL_PROTECTION
#define SYSTEM_CALL 257 /* by a callback */

extern const char user_start[], user_end[];
extern const char by_int[], behind_int[], by_syscall[], behind_syscall[], by_sysenter[],
    behind_sysenter[], stepping[], behind_step[], nested[], behind_nested[];
extern char syscall_entry[];
void user_enter(u64 rip, u64 rsp, u64 argument);
__attribute__((noreturn)) void user_leave(void);

static struct regs got, end;
static bool taken;
static u64 behind;

static u64 at(const char *label)
{
    return USER_CODE + (u64)(label - user_start);
}

/* Keep what was got of the call, and go on behind it. */
static void take(struct regs *regs, u64 vector)
{
    check(!taken);
    taken = true;
    got = *regs;
    got.vector = vector;
    regs->rip = behind;
    regs->cs = FLAT_USER_CS32;
    regs->rsp = regs->rbp & 0xffffffff;
    regs->ss = FLAT_USER_SS;
    regs->rflags &= ~(u64)(TF | NT);
}

static bool on_trap(struct regs *regs)
{
    if (!from_user(regs))
        return false;
    if (regs->vector == DONE) {
        end = *regs;
        user_leave();
    }
    take(regs, regs->vector);
    return true;
}

static bool on_syscall(struct regs *regs)
{
    take(regs, SYSTEM_CALL);
    return true;
}

static void run(const char *code, const char *resume)
{
    taken = false;
    behind = at(resume);
    user_enter(USER_CODE, USER_STACK_TOP, at(code));
    upcalls_on();
    check(taken);
    for (u32 i = 0; i < 2; i++) {
        const struct regs *regs = i ? &end : &got;
        check_equal((u32)regs->rbx, USER_EBX);
        check_equal((u32)regs->rdx, USER_EDX);
        check_equal((u32)regs->rsi, USER_ESI);
        check_equal((u32)regs->rdi, USER_EDI);
    }
    check_equal((u32)got.rbp, USER_STACK_TOP);
    check_equal(end.cs & 0xffff, FLAT_USER_CS32);
    check_equal(end.rsp, USER_STACK_TOP);
}

static void is_at(u64 rip)
{
    check_equal(got.rip, rip);
    check_equal(got.cs & 0xffff, FLAT_USER_CS32);
    check_equal(got.rsp, USER_STACK_TOP);
    check_equal(got.ss, FLAT_USER_SS);
}

/* Each is of two bytes. */
static void is_no_instruction(void)
{
    check_equal(got.vector, UD);
    is_at(behind - 2);
}

/* What the CPU does not keep nobody knows. */
static void is_from_nowhere(u64 vector)
{
    check_equal(got.vector, vector);
    check_equal(got.error_code, 0);
    check_equal(got.rip, 0);
    check_equal(got.cs & 0xffff, 3);
    check_equal(got.rsp, 0);
    check_equal(got.ss, FLAT_USER_SS);
}

static void expect_sysenter(bool there, u64 vector, const char *code, const char *resume)
{
    run(code, resume);
    if (there)
        is_from_nowhere(vector);
    else
        is_no_instruction();
}

static bool is_intel(void)
{
    u32 eax = 0, ebx, ecx = 0, edx;
    __asm__ volatile(XEN_EMULATE_PREFIX "cpuid"
                     : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    return !memcmp(&ebx, "Genu", 4);
}

static void register_callback(u16 type)
{
    struct callback_register callback = {type, CALLBACKF_mask_events, (u64)syscall_entry};
    check_equal(callback_op(CALLBACKOP_register, &callback), 0);
}

void guest_main(void)
{
    bool intel = is_intel(), sysenter;
    user_init(user_start, (size_t)(user_end - user_start), on_syscall);
    trap_hook = on_trap;

    run(by_int, behind_int);
    check_equal(got.vector, CALL);
    is_at(behind);
    run(by_syscall, behind_syscall);
    is_no_instruction();
    run(by_sysenter, behind_sysenter);
    sysenter = got.vector == GP;
    check(sysenter || !intel);
    expect_sysenter(sysenter, GP, by_sysenter, behind_sysenter);

    register_callback(CALLBACKTYPE_syscall32);
    register_callback(CALLBACKTYPE_sysenter);
    run(by_syscall, behind_syscall);
    if (intel) {
        is_no_instruction();
    } else {
        check_equal(got.vector, SYSTEM_CALL);
        is_at(behind);
    }
    expect_sysenter(sysenter, SYSTEM_CALL, by_sysenter, behind_sysenter);
    if (intel || !sysenter) {
        expect_sysenter(sysenter, SYSTEM_CALL, stepping, behind_step);
        check(got.rflags & TF);
        expect_sysenter(sysenter, SYSTEM_CALL, nested, behind_nested);
    }
    print("SUCCESS\n");
}
