/*
 * Hardware breakpoints of kernel and user code: where they fire, and DR6. And those that `mov ss`
 * holds back until after the next instruction: where that enters the kernel, the kernel sees the
 * entry and nothing else (CVE-2018-8897).
 */
#include "guest.h"

#include "breakpoints.h"

#define DB TRAP_DEBUG
#define BP TRAP_BREAKPOINT
#define UD TRAP_INVALID_OPCODE
#define SYSTEM_CALL 257
#define RF EFL_RF
#define B(n) (1ul << (n))
#define BS (1ul << 14)
#define STATUS 0xe00ful
/* DR7: breakpoint n enabled, what it is for, and its length in bytes. */
#define ENABLED(n, kind, length) (2ul << 2 * (n) | ((kind) | ((length) - 1ul) << 2) << (16 + 4 * (n)))
#define EXECUTE 0ul
#define WRITE 1ul
#define READ_WRITE 3ul

extern const char user_start[], user_end[];
extern const char user_store[], behind_store[], user_nop[], behind_nop[], held_nop[],
    behind_held_nop[], held_int3[], held_int[], held_syscall[], held_syscall_32[],
    held_sysenter_32[];
extern const char kernel_stored[], kernel_nop[];
extern char syscall_entry[];
void user_enter(u64 rip, u64 rsp, u64 argument);
__attribute__((noreturn)) void user_leave(void);

static volatile u64 datum;
static u32 hits;
static struct regs at_hit, end;
static u64 dr6;

static bool on_trap(struct regs *regs)
{
    if (regs->vector == DB) {
        at_hit = *regs;
        dr6 = get_debugreg(6) & STATUS;
        check_equal(set_debugreg(6, 0), 0);
        check(++hits < 10);
        regs->rflags |= RF;
        return true;
    }
    if (!from_user(regs))
        return false;
    end = *regs;
    user_leave();
}

static bool on_syscall(struct regs *regs)
{
    end = *regs;
    return false;
}

static u64 at(const char *label)
{
    return USER_CODE + (u64)(label - user_start);
}

static void watch(u32 n, u64 va, u64 kind, u64 length)
{
    hits = 0;
    dr6 = 0;
    check_equal(set_debugreg(7, 0), 0);
    check_equal(set_debugreg(n, va), 0);
    check_equal(set_debugreg(7, ENABLED(n, kind, length)), 0);
}

static void expect_hit(u64 rip, u64 status)
{
    check_equal(hits, 1);
    check_equal(at_hit.rip, rip);
    check_equal(dr6, status);
}

static void run(const char *code)
{
    end.vector = 0;
    user_enter(USER_CODE, USER_STACK_TOP, at(code));
    upcalls_on();
}

static void in_the_kernel(void)
{
    watch(0, (u64)&datum, WRITE, 8);
    __asm__ volatile("movq $7, %0\n"
                     ".global kernel_stored\n"
                     "kernel_stored: nop"
                     : "=m"(datum));
    expect_hit((u64)kernel_stored, B(0));
    check_equal(datum, 7);
    watch(1, (u64)kernel_nop, EXECUTE, 1);
    __asm__ volatile(".global kernel_nop\n"
                     "kernel_nop: nop");
    expect_hit((u64)kernel_nop, B(1));
    hits = 0;
    __asm__ volatile("pushf\n\t"
                     "orl $0x100, (%%rsp)\n\t"
                     "popf\n\t"
                     "nop\n\t"
                     "pushf\n\t"
                     "andl $~0x100, (%%rsp)\n\t"
                     "popf"
                     : : : "memory", "cc");
    check(hits);
    check_equal(dr6, BS);
}

static void in_user_code(void)
{
    watch(2, WATCHED, WRITE, 8);
    run(user_store);
    check_equal(end.vector, DONE);
    expect_hit(at(behind_store), B(2));
    watch(3, at(user_nop), EXECUTE, 1);
    run(user_nop);
    check_equal(end.vector, DONE);
    expect_hit(at(user_nop), B(3));
    watch(0, WATCHED, READ_WRITE, 2);
    run(held_nop);
    check_equal(end.vector, DONE);
    expect_hit(at(behind_held_nop), B(0));
}

/* The entry is what the kernel sees. A CPU may tell of the breakpoint before it, after it, or never. */
static void enters(const char *code, u64 vector, u64 otherwise)
{
    watch(0, WATCHED, READ_WRITE, 2);
    run(code);
    if (end.vector != otherwise)
        check_equal(end.vector, vector);
    check_equal((u32)end.rbx, WATCHED);
}

static void held_back(void)
{
    enters(held_int3, BP, BP);
    enters(held_int, CALL, CALL);
    enters(held_syscall, SYSTEM_CALL, SYSTEM_CALL);
    /* Of 32-bit code, AMD's, and Intel's: on the other's CPU it is no instruction. */
    enters(held_syscall_32, SYSTEM_CALL, UD);
    enters(held_sysenter_32, SYSTEM_CALL, UD);
}

static void register_callback(u16 type)
{
    struct callback_register callback = {type, CALLBACKF_mask_events, (u64)syscall_entry};
    check_equal(callback_op(CALLBACKOP_register, &callback), 0);
}

void guest_main(void)
{
    user_init(user_start, (size_t)(user_end - user_start), on_syscall);
    register_callback(CALLBACKTYPE_syscall32);
    register_callback(CALLBACKTYPE_sysenter);
    trap_hook = on_trap;
    run(user_store); /* the selector is there */
    in_the_kernel();
    in_user_code();
    held_back();
    check_equal(set_debugreg(7, 0), 0);
    print("SUCCESS\n");
}
