/* A traced child's hardware breakpoints and steps. What `mov ss` holds back until after the next
 * instruction must not come where that enters the kernel (CVE-2018-8897). The arguments say what to
 * try. Prints RIGHT, or what is wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define require(condition)                                                           \
    do {                                                                             \
        if (!(condition)) {                                                          \
            printf("WRONG: %s:%d: %s (dr6 %lx rip %lx)\n", __FILE__, __LINE__,        \
                   #condition, dr6, rip);                                            \
            exit(1);                                                                 \
        }                                                                            \
    } while (0)

#define ENABLED(n) (1ul << (2 * (n)))
#define KIND(n, rw, length) (((rw) | ((length) - 1) << 2) << (16 + 4 * (n)))
#define EXECUTE 0ul
#define WRITE 1ul
#define READ_WRITE 3ul
#define BS 0x4000ul
#define STATUS 0xe00ful

extern char at_store[], behind_store[], at_nop[], behind_nop[];
static volatile uint32_t datum;
static uint16_t stack_segment;
static uint64_t dr6, rip;
static pid_t child;

/* noinline: each label is there once. */
__attribute__((noinline)) static void store(void)
{
    __asm__ volatile("at_store: movl $7, %0\n"
                     "behind_store: nop"
                     : "=m"(datum));
}

__attribute__((noinline)) static void nop(void)
{
    __asm__ volatile("at_nop: nop\n"
                     "behind_nop: nop");
}

static uint64_t peek(unsigned number)
{
    errno = 0;
    return (uint64_t)ptrace(PTRACE_PEEKUSER, child,
                            offsetof(struct user, u_debugreg) + 8 * number, 0);
}

static void poke(unsigned number, uint64_t value)
{
    require(!ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg) + 8 * number, value));
}

static int go_on(int how)
{
    struct user_regs_struct regs;
    int status;
    require(ptrace(how, child, 0, 0) == 0);
    require(waitpid(child, &status, 0) == child);
    if (WIFSTOPPED(status)) {
        require(ptrace(PTRACE_GETREGS, child, 0, &regs) == 0);
        rip = regs.rip;
        dr6 = peek(6) & STATUS;
    }
    return status;
}

static bool trapped(int status)
{
    return WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP;
}

static void start(void (*code)(void))
{
    int status;
    rip = dr6 = 0;
    child = fork();
    require(child >= 0);
    if (!child) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        code();
        _exit(0);
    }
    require(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
}

static void ends(void)
{
    int status = go_on(PTRACE_CONT);
    require(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void write_to(void)
{
    start(store);
    poke(0, (uint64_t)&datum);
    poke(7, ENABLED(0) | KIND(0, WRITE, 4ul));
    require(trapped(go_on(PTRACE_CONT)));
    require(rip == (uint64_t)behind_store);
    require(dr6 == 1);
    require(ptrace(PTRACE_PEEKDATA, child, &datum, 0) << 32 >> 32 == 7);
    ends();
}

static void execute(void)
{
    start(nop);
    poke(1, (uint64_t)at_nop);
    poke(7, ENABLED(1) | KIND(1, EXECUTE, 1ul));
    require(trapped(go_on(PTRACE_CONT)));
    require(rip == (uint64_t)at_nop);
    require(dr6 == 2);
    /* Once, not for ever: RF. */
    ends();
}

static void step(void)
{
    start(nop);
    for (int i = 0; rip != (uint64_t)at_nop; i++) {
        require(i < 100000);
        require(trapped(go_on(PTRACE_SINGLESTEP)));
        require(dr6 == BS);
    }
    require(trapped(go_on(PTRACE_SINGLESTEP)));
    require(rip == (uint64_t)behind_nop);
    require(dr6 == BS);
    ends();
}

#define BEHIND_MOV_SS(instruction, ...)                                              \
    __asm__ volatile("mov %[ss], %%ss\n\t" instruction                               \
                     : "+a"(number) : [ss] "m"(stack_segment) : "rcx", "r11", "memory")

static void held_syscall(void)
{
    long number = SYS_getppid;
    BEHIND_MOV_SS("syscall");
    _exit(number == getppid() ? 0 : 1);
}

static void held_int3(void)
{
    long number = 0;
    BEHIND_MOV_SS("int3");
}

static void held_int(void)
{
    long number = 64; /* getppid, of 32-bit code's */
    BEHIND_MOV_SS("int $0x80");
    _exit(number == getppid() ? 0 : 1);
}

static void held_nop(void)
{
    long number = 0;
    BEHIND_MOV_SS("nop");
}

/* The child does what it would do without a breakpoint; how often it was stopped. */
static unsigned stops_of(void (*code)(void))
{
    unsigned stops = 0;
    int status;
    start(code);
    poke(0, (uint64_t)&stack_segment);
    poke(7, ENABLED(0) | KIND(0, READ_WRITE, 2ul));
    while (trapped(status = go_on(PTRACE_CONT)))
        require(++stops < 10);
    require(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return stops;
}

static void held(void)
{
    /* Whether its tracer is told of the breakpoint is the kernel's business, and the CPU's. */
    stops_of(held_syscall);
    stops_of(held_int);
    require(stops_of(held_int3) > 0);
}

static void held_to_the_end(void)
{
    require(stops_of(held_nop) == 1);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } parts[] = {{"write", write_to},
                 {"execute", execute},
                 {"step", step},
                 {"held", held},
                 {"held-to-the-end", held_to_the_end}};
    setvbuf(stdout, NULL, _IONBF, 0);
    __asm__("mov %%ss, %0" : "=m"(stack_segment));
    for (int i = 1; i < argc; i++)
        for (unsigned part = 0; part < sizeof parts / sizeof parts[0]; part++)
            if (!strcmp(argv[i], parts[part].name))
                parts[part].run();
    printf("RIGHT\n");
}
