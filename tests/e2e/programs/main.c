#include "workload.h"

#include <string.h>
#include <unistd.h>

/* What processes() executes: sums its input on a pipe. */
static int child(void)
{
    unsigned sum = 0;
    for (int byte; (byte = getchar()) != EOF;)
        sum += (unsigned)byte;
    return (int)(sum % 251);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } parts[] = {
        {"processes", processes}, {"memory", memory}, {"signals", signals}, {"vectors", vectors},
        {"ports", ports}};
    if (argc == 2 && !strcmp(argv[1], "child"))
        return child();
    setvbuf(stdout, NULL, _IONBF, 0);
    for (unsigned i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (argc == 2 && strcmp(argv[1], parts[i].name))
            continue;
        parts[i].run();
        printf("DONE: %s\n", parts[i].name);
    }
}
