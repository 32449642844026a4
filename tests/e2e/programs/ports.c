#include "workload.h"

#include <signal.h>
#include <sys/io.h>
#include <sys/wait.h>
#include <unistd.h>

#define ALLOWED 0x70
#define REFUSED 0x73

/* How a process ends that runs this: 0, or by the signal. */
static int end_of(void (*run)(void))
{
    int status;
    pid_t child = fork();
    require(child >= 0);
    if (!child) {
        signal(SIGSEGV, SIG_DFL);
        run();
        _exit(0);
    }
    require(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

static void without(void)
{
    outb(0, ALLOWED);
}

static void with_iopl(void)
{
    require(iopl(3) == 0);
    outb(0, ALLOWED);
    require(inb(REFUSED) == 0xff);
    require(inl(ALLOWED) == 0xffffffff);
}

static void with_ioperm(void)
{
    require(ioperm(ALLOWED, 2, 1) == 0);
    for (int i = 0; i < 100; i++) {
        /* A child has it too, and takes turns with its parent. */
        require(i % 10 || end_of(without) == 0);
        outb(0, ALLOWED);
        require(inb(ALLOWED + 1) == 0xff);
        require(inw(ALLOWED) == 0xffff);
    }
}

static void beyond_ioperm(void)
{
    require(ioperm(ALLOWED, 2, 1) == 0);
    inw(ALLOWED + 1);
}

void ports(void)
{
    require(end_of(without) == SIGSEGV);
    require(end_of(with_iopl) == 0);
    require(end_of(without) == SIGSEGV);
    require(end_of(with_ioperm) == 0);
    require(end_of(beyond_ioperm) == SIGSEGV);
    require(end_of(without) == SIGSEGV);
}
