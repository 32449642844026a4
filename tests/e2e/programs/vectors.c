/* Several processes hold different values in every register that XSAVE keeps, for longer than the
 * kernel lets one run, give the CPU away besides, and look whether all bits of theirs are still
 * there. Once for each set of registers that there is: x87, SSE, AVX, AVX-512.
 */
#define _GNU_SOURCE
#include "workload.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* On each CPU, so that they take turns there. */
#define PROCESSES 4
#define ROUNDS 25

struct registers {
    uint8_t vector[32][64];
    uint64_t mask[8];
    uint8_t x87[8][16];
} __attribute__((aligned(64)));

static struct registers before, after;

#define EACH8(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define EACH16(X) EACH8(X) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define EACH32(X)                                                                    \
    EACH16(X) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)                        \
    X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31)
#define LOAD(mov, reg, n) mov " " #n "*64(%[before]), %%" #reg #n "\n"
#define SAVE(mov, reg, n) mov " %%" #reg #n ", " #n "*64(%[after])\n"
#define LOAD_XMM(n) LOAD("movaps", xmm, n)
#define SAVE_XMM(n) SAVE("movaps", xmm, n)
#define LOAD_YMM(n) LOAD("vmovaps", ymm, n)
#define SAVE_YMM(n) SAVE("vmovaps", ymm, n)
#define LOAD_ZMM(n) LOAD("vmovaps", zmm, n)
#define SAVE_ZMM(n) SAVE("vmovaps", zmm, n)
#define LOAD_MASK(n) "kmovq 2048+" #n "*8(%[before]), %%k" #n "\n"
#define SAVE_MASK(n) "kmovq %%k" #n ", 2048+" #n "*8(%[after])\n"
#define PUSH_X87(n) "fldt 2112+" #n "*16(%[before])\n"
#define POP_X87(n) "fstpt 2112+(7-" #n ")*16(%[after])\n"
_Static_assert(offsetof(struct registers, mask) == 2048, "as the assembly has it");
_Static_assert(offsetof(struct registers, x87) == 2112, "as the assembly has it");

/* Some 2 ms of a CPU of 1 GHz, and sched_yield() by itself: nothing between the loads and the
 * stores may use a register.
 */
#define HOLD "mov $1000000, %%ecx\n 1: dec %%ecx\n jnz 1b\n mov $24, %%eax\n syscall\n"
#define TURN(load, save, ...)                                                        \
    __asm__ volatile(load HOLD save                                                  \
                     :                                                               \
                     : [before] "r"(&before), [after] "r"(&after)                    \
                     : "rax", "rcx", "r11", "memory", "cc" __VA_ARGS__)
#define NAME(n) , "xmm" #n

static void turn_x87(void)
{
    TURN("fninit\n" EACH8(PUSH_X87), EACH8(POP_X87));
}

static void turn_xmm(void)
{
    TURN(EACH16(LOAD_XMM), EACH16(SAVE_XMM), EACH16(NAME));
}

__attribute__((target("avx"))) static void turn_ymm(void)
{
    TURN(EACH16(LOAD_YMM), EACH16(SAVE_YMM), EACH16(NAME));
}

__attribute__((target("avx512f,avx512bw"))) static void turn_zmm(void)
{
    TURN(EACH32(LOAD_ZMM) EACH8(LOAD_MASK), EACH32(SAVE_ZMM) EACH8(SAVE_MASK),
         EACH32(NAME), "k1", "k2", "k3", "k4", "k5", "k6", "k7");
}

/* A set of registers: how many vectors of how many bytes, opmasks, x87 registers. */
struct level {
    const char *name;
    void (*turn)(void);
    unsigned registers, width, masks, x87;
};

/* Any 80 bits with these are a number, which x87 loads and stores as it is. */
static void make_numbers(void)
{
    for (unsigned n = 0; n < 8; n++) {
        before.x87[n][7] |= 0x80;
        before.x87[n][9] = 0x3f;
    }
}

static void check(const struct level *level)
{
    for (unsigned n = 0; n < level->registers; n++)
        require(!memcmp(before.vector[n], after.vector[n], level->width));
    require(!memcmp(before.mask, after.mask, level->masks * sizeof *before.mask));
    for (unsigned n = 0; n < level->x87; n++)
        require(!memcmp(before.x87[n], after.x87[n], 10));
}

static void hold(unsigned who, const struct level *level)
{
    /* Rounding differs too: MXCSR and the x87 control word are state. */
    const uint32_t mxcsr = 0x1f80 | (who & 3) << 13;
    const uint16_t control = (uint16_t)(0x37f & ~0xc00) | (uint16_t)((who & 3) << 10);
    uint32_t mxcsr_now;
    uint16_t control_now;
    uint64_t random = who + 1;
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < sizeof before; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            ((uint8_t *)&before)[i] = (uint8_t)(random >> 56);
        }
        make_numbers();
        memset(&after, 0, sizeof after);
        __asm__ volatile("ldmxcsr %0; fldcw %1" : : "m"(mxcsr), "m"(control));
        level->turn();
        __asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr_now), "=m"(control_now));
        check(level);
        require((mxcsr_now & 0x6000) == (mxcsr & 0x6000));
        require(level->x87 || control_now == control);
    }
}

static void run(const struct level *level)
{
    long preempted = 0, processes = PROCESSES * sysconf(_SC_NPROCESSORS_ONLN);
    for (long who = 0; who < processes; who++) {
        pid_t pid = fork();
        require(pid >= 0);
        if (!pid) {
            hold((unsigned)who, level);
            _exit(0);
        }
    }
    for (long who = 0; who < processes; who++) {
        struct rusage usage;
        int status;
        require(wait3(&status, 0, &usage) > 0 && status == 0);
        preempted += usage.ru_nivcsw;
    }
    require(preempted >= processes);
    printf("HELD: %s\n", level->name);
}

/* XCR0, whose components are what this program checks; 0 without XSAVE. */
static unsigned xcr0(void)
{
    unsigned eax = 1, ebx, ecx = 0, edx;
    __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    if (!(ecx & 1u << 27))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return eax;
}

void vectors(void)
{
    static const struct level levels[] = {
        {"x87", turn_x87, 0, 0, 0, 8},
        {"SSE", turn_xmm, 16, 16, 0, 0},
        {"AVX", turn_ymm, 16, 32, 0, 0},
        {"AVX-512", turn_zmm, 32, 64, 8, 0},
    };
    unsigned count = 2;
    if (__builtin_cpu_supports("avx"))
        count = 3;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
        count = 4;
    printf("XCR0: %#x\n", xcr0());
    for (unsigned i = 0; i < count; i++)
        run(&levels[i]);
}
