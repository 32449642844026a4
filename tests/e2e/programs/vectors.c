/* Several processes on one CPU hold different patterns in every register that XSAVE keeps, give
 * the CPU to each other and look whether their own came back. */
#define _GNU_SOURCE
#include "workload.h"

#include <immintrin.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROCESSES 4
#define ROUNDS 1000
#define REGISTERS 16

static uint8_t before[REGISTERS][64] __attribute__((aligned(64)));
static uint8_t after[REGISTERS][64] __attribute__((aligned(64)));

#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define LOAD(mov, reg, n) mov " " #n "*64(%[before]), %%" reg #n "\n"
#define SAVE(mov, reg, n) mov " %%" reg #n ", " #n "*64(%[after])\n"
#define LOAD_XMM(n) LOAD("movaps", "xmm", n)
#define SAVE_XMM(n) SAVE("movaps", "xmm", n)
#define LOAD_YMM(n) LOAD("vmovaps", "ymm", n)
#define SAVE_YMM(n) SAVE("vmovaps", "ymm", n)
#define LOAD_ZMM(n) LOAD("vmovaps", "zmm", n)
#define SAVE_ZMM(n) SAVE("vmovaps", "zmm", n)
/* sched_yield() by itself: nothing between the loads and the stores may use a register. */
#define YIELD "mov $24, %%eax\n syscall\n"
#define TURN(load, save)                                                             \
    __asm__ volatile(EACH(load) YIELD EACH(save)                                     \
                     :                                                               \
                     : [before] "r"(before), [after] "r"(after)                      \
                     : "rax", "rcx", "r11", "memory", "xmm0", "xmm1", "xmm2",        \
                       "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",       \
                       "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

__attribute__((target("avx512f"))) static void turn_zmm(void)
{
    TURN(LOAD_ZMM, SAVE_ZMM);
}

__attribute__((target("avx"))) static void turn_ymm(void)
{
    TURN(LOAD_YMM, SAVE_YMM);
}

static void turn_xmm(void)
{
    TURN(LOAD_XMM, SAVE_XMM);
}

static void hold(unsigned who, void (*turn)(void), size_t width)
{
    /* Rounding and precision differ too: MXCSR and the x87 control word are state. */
    const uint32_t mxcsr = 0x1f80 | (who & 3) << 13;
    const uint16_t control = (uint16_t)(0x37f & ~0xc00) | (uint16_t)((who & 3) << 10);
    uint32_t mxcsr_now;
    uint16_t control_now;
    double x87 = who + 0.5, x87_now;
    __asm__ volatile("ldmxcsr %0; fldcw %1" : : "m"(mxcsr), "m"(control));
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned n = 0; n < REGISTERS; n++)
            memset(before[n], (int)(who * 16 + n + round * 64), sizeof before[n]);
        memset(after, 0, sizeof after);
        __asm__ volatile("fldl %0" : : "m"(x87));
        turn();
        __asm__ volatile("fstpl %0" : "=m"(x87_now));
        for (unsigned n = 0; n < REGISTERS; n++)
            require(!memcmp(before[n], after[n], width));
        __asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr_now), "=m"(control_now));
        require((mxcsr_now & 0x6000) == (mxcsr & 0x6000) && control_now == control);
        require(x87_now == x87);
    }
}

void vectors(void)
{
    void (*turn)(void) = turn_xmm;
    size_t width = 16;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    require(sched_setaffinity(0, sizeof one, &one) == 0);
    if (__builtin_cpu_supports("avx512f"))
        turn = turn_zmm, width = 64;
    else if (__builtin_cpu_supports("avx"))
        turn = turn_ymm, width = 32;
    for (unsigned who = 0; who < PROCESSES; who++) {
        pid_t pid = fork();
        require(pid >= 0);
        if (!pid) {
            hold(who, turn, width);
            _exit(0);
        }
    }
    for (unsigned who = 0; who < PROCESSES; who++) {
        int status;
        require(wait(&status) > 0 && status == 0);
    }
    printf("vectors of %zu bits\n", width * 8);
}
