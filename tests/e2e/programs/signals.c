#define _GNU_SOURCE
#include "workload.h"

#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t sent, ticks;
static volatile int got, code;
static void *volatile address;
static sigjmp_buf back;

static void on_sent(int number)
{
    (void)number;
    sent++;
}

static void on_tick(int number)
{
    (void)number;
    ticks++;
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    got = number;
    code = info->si_code;
    address = info->si_addr;
    siglongjmp(back, 1);
}

static void handle(int number, void (*handler)(int, siginfo_t *, void *))
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    require(sigaction(number, &action, NULL) == 0);
}

#define faults(number, instruction)                                                  \
    do {                                                                             \
        got = 0;                                                                     \
        if (!sigsetjmp(back, 1)) {                                                   \
            instruction;                                                             \
        }                                                                            \
        require(got == (number));                                                    \
    } while (0)

static void raised_by_faults(void)
{
    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack_t stack = {.ss_sp = malloc(1 << 17), .ss_size = 1 << 17};
    volatile int result;
    require(page != MAP_FAILED && stack.ss_sp && sigaltstack(&stack, NULL) == 0);
    handle(SIGSEGV, on_fault);
    handle(SIGFPE, on_fault);
    handle(SIGILL, on_fault);
    handle(SIGTRAP, on_fault);
    faults(SIGSEGV, page[17] = 1);
    require(address == page + 17 && code == SEGV_ACCERR);
    require(munmap(page, 4096) == 0);
    faults(SIGSEGV, result = page[18]);
    require(address == page + 18 && code == SEGV_MAPERR);
    faults(SIGSEGV, result = *(volatile char *)0x8000000000000000);
    faults(SIGSEGV, __asm__ volatile("hlt"));
    faults(SIGSEGV, __asm__ volatile("int $0x20"));
    faults(SIGFPE, __asm__ volatile("xor %%eax, %%eax; cltd; idivl %%eax" : : : "eax", "edx"));
    faults(SIGILL, __asm__ volatile("ud2"));
    faults(SIGTRAP, __asm__ volatile("int3"));
    faults(SIGTRAP, __asm__ volatile("pushf; orl $0x100, (%rsp); popf; nop"));
    (void)result;
}

static void sent_by_a_child(void)
{
    int status;
    signal(SIGUSR1, on_sent);
    for (int i = 1; i <= 100; i++) {
        pid_t pid = fork();
        require(pid >= 0);
        if (!pid)
            _exit(kill(getppid(), SIGUSR1));
        require(waitpid(pid, &status, 0) == pid && status == 0);
        require(sent == i);
    }
}

static void timed(void)
{
    struct itimerval often = {{0, 10000}, {0, 10000}}, never = {{0, 0}, {0, 0}};
    double x = 1, y = 1;
    signal(SIGALRM, on_tick);
    require(setitimer(ITIMER_REAL, &often, NULL) == 0);
    /* Both lanes by the same operations: a signal in between must not show. */
    while (ticks < 50) {
        x = x * 1.0000001 + 1e-9;
        y = y * 1.0000001 + 1e-9;
        require(x == y);
    }
    require(setitimer(ITIMER_REAL, &never, NULL) == 0);
}

void signals(void)
{
    raised_by_faults();
    sent_by_a_child();
    timed();
}
