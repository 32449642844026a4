/* The calls of the user side: begin, and what it has tried, the last one last. */
#pragma once

#define START 0
#define CLI 1
#define IN 2
#define IN_WORD 3
#define OUT 4
#define CPUID 5
#define CALLS 6
