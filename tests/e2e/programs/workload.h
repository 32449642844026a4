/* A workload for a guest's kernel: each part ends the process with a message where it fails. */
#pragma once

#include <stdio.h>
#include <stdlib.h>

#define require(condition)                                                           \
    do {                                                                             \
        if (!(condition)) {                                                          \
            printf("FAILED: %s:%d: %s\n", __FILE__, __LINE__, #condition);           \
            exit(1);                                                                 \
        }                                                                            \
    } while (0)

void processes(void); /* fork and exec 500 times, with pipes */
void memory(void);    /* mmap, fault, mprotect, copy on write, munmap */
void signals(void);   /* sent, timed, and raised by faults */
void vectors(void);   /* x87, SSE, AVX and AVX-512 state of processes that take turns */
void ports(void);     /* port I/O of processes that asked for it, and of others */
