/* How a program of the measured guest says what it measures: "BEGIN name" before the rounds,
   "BENCH name rounds ns" after them. Around each line the guest sleeps, so that whoever reads it
   counts a guest that does nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void need(int condition, const char *what)
{
    if (!condition) {
        perror(what);
        exit(1);
    }
}

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void settle(void)
{
    usleep(20000);
}

static void bench(const char *name, void (*operation)(long), long rounds)
{
    settle();
    printf("BEGIN %s\n", name);
    settle();
    long start = now();
    operation(rounds);
    long taken = now() - start;
    settle();
    printf("BENCH %s %ld %ld\n", name, rounds, taken);
    settle();
}

static void nothing(long rounds)
{
    (void)rounds;
}
