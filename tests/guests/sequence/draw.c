/* Where all comes from, and where it goes. */
#include "sequence.h"

u64 seed, digest;
bool verbose, shared;

u64 draw(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1d;
}

u64 below(u64 limit)
{
    return (draw() >> 16) % limit;
}

bool one_in(u64 n)
{
    return below(n) == 0;
}

void note(u64 value)
{
    digest = (digest ^ value) * 0x100000001b3;
    digest ^= digest >> 29;
}

void say(const char *text, ...)
{
    char line[256];
    va_list rest;
    if (!verbose)
        return;
    va_start(rest, text);
    vformat(line, sizeof line, text, rest);
    va_end(rest);
    print("%s\n", line);
}
