/* Local descriptor tables: processes that take turns each have a data segment of their own, and a
 * 32-bit code segment that is called and returns. Prints RIGHT, or what is wrong.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PROCESSES 4
#define ROUNDS 40
#define SELECTOR(entry) ((entry) << 3 | 7)

#define require(condition)                                                           \
    do {                                                                             \
        if (!(condition)) {                                                          \
            printf("WRONG: %s:%d: %s\n", __FILE__, __LINE__, #condition);             \
            exit(1);                                                                 \
        }                                                                            \
    } while (0)

static void set(unsigned entry, void *base, unsigned limit, unsigned contents)
{
    struct user_desc segment = {
        .entry_number = entry,
        .base_addr = (unsigned)(uintptr_t)base,
        .limit = limit,
        .seg_32bit = 1,
        .contents = contents,
        .useable = 1,
    };
    require(syscall(SYS_modify_ldt, 1, &segment, sizeof segment) == 0);
}

static uint64_t through_gs(void)
{
    uint64_t value;
    __asm__ volatile("mov %%gs:8, %0" : "=r"(value));
    return value;
}

static struct __attribute__((packed)) {
    uint32_t offset;
    uint16_t selector;
} far;
static uint64_t stack;

/* Calls `mov $value, %eax; add %ecx, %eax; lret`, on a stack that 32-bit code reaches. */
static unsigned through_code(unsigned entry, uint8_t *low, unsigned value)
{
    unsigned result;
    far.selector = SELECTOR(entry);
    low[0] = 0xb8;
    memcpy(low + 1, &value, 4);
    memcpy(low + 5, "\x01\xc8\xcb", 3);
    /* Such code need not keep the upper halves of registers. */
    __asm__ volatile("mov %%rsp, %[stack]\n\t"
                     "mov %[low], %%rsp\n\t"
                     "lcall *%[far]\n\t"
                     "mov %[stack], %%rsp"
                     : "=a"(result), [stack] "+m"(stack)
                     : [low] "d"(low + 8192), "c"(1), [far] "m"(far)
                     : "memory", "cc", "rbx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
                       "r13", "r14", "r15");
    return result;
}

static int process(unsigned number)
{
    uint8_t *low = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    struct timespec moment = {0, 1000000};
    unsigned entry = number * 3;
    require(low != MAP_FAILED);
    uint64_t *data = (uint64_t *)(low + 4096);
    set(entry, data, 4095, 0);
    set(entry + 1, low, 4095, 2);
    __asm__ volatile("mov %0, %%gs" : : "r"(SELECTOR(entry)));
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t value = (uint64_t)number << 32 | round;
        unsigned selector;
        data[1] = value;
        require(through_gs() == value);
        if (round % 4)
            sched_yield();
        else
            nanosleep(&moment, NULL);
        __asm__ volatile("mov %%gs, %0" : "=r"(selector));
        require(selector == SELECTOR(entry));
        require(through_gs() == value);
        require(through_code(entry + 1, low, round) == round + 1);
    }
    return 0;
}

int main(void)
{
    int status;
    setvbuf(stdout, NULL, _IONBF, 0);
    for (unsigned number = 0; number < PROCESSES; number++) {
        pid_t pid = fork();
        require(pid >= 0);
        if (!pid)
            _exit(process(number));
    }
    for (unsigned number = 0; number < PROCESSES; number++)
        require(wait(&status) > 0 && status == 0);
    printf("RIGHT\n");
}
