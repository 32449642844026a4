/* What a guest's init does in the measured machine: says that it runs, then does each operation
   many times, unless it is called with "quick". */
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "rounds.h"

#define PAGE 4096

static const char *self;

static void system_call(long rounds)
{
    for (long i = 0; i < rounds; i++)
        syscall(SYS_getppid);
}

static void page_fault(long rounds)
{
    char *pages = mmap(NULL, rounds * PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(pages != MAP_FAILED, "mmap");
    need(!madvise(pages, rounds * PAGE, MADV_NOHUGEPAGE), "madvise");
    for (long i = 0; i < rounds; i++)
        pages[i * PAGE] = 1;
    need(!munmap(pages, rounds * PAGE), "munmap");
}

static void children(long rounds, int exec)
{
    for (long i = 0; i < rounds; i++) {
        pid_t child = fork();
        int status;
        need(child >= 0, "fork");
        if (!child) {
            if (exec)
                execl(self, self, "exit", NULL);
            _exit(exec);
        }
        need(waitpid(child, &status, 0) == child && !status, "child");
    }
}

static void fork_only(long rounds)
{
    children(rounds, 0);
}

static void fork_exec(long rounds)
{
    children(rounds, 1);
}

/* A round is a byte there and back: two switches. */
static void context_switch(long rounds)
{
    int there[2], back[2];
    char byte = 0;
    need(!pipe(there) && !pipe(back), "pipe");
    pid_t child = fork();
    need(child >= 0, "fork");
    for (long i = 0; i < rounds / 2; i++) {
        if (child)
            need(write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1, "parent");
        else
            need(read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1, "child");
    }
    if (!child)
        _exit(0);
    wait(NULL);
    for (int i = 0; i < 2; i++) {
        close(there[i]);
        close(back[i]);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "exit"))
        return 0;
    self = argv[0];
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("the init runs\n");
    if (argc < 2 || strcmp(argv[1], "quick")) {
        bench("nothing", nothing, 1);
        bench("system_call", system_call, 10000);
        bench("page_fault", page_fault, 1000);
        bench("fork", fork_only, 100);
        bench("fork_exec", fork_exec, 50);
        bench("context_switch", context_switch, 1000);
    }
    printf("the end\n");
    settle();
    return 0;
}
