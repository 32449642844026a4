/* A table of two columns, 79 characters wide. */
#include "demo.h"

#define LABEL 32
#define VALUE 40

static void rule(char corner)
{
    char line[LABEL + VALUE + 8];
    memset(line, '-', sizeof line);
    line[0] = line[LABEL + VALUE + 6] = '+';
    line[LABEL + 3] = corner;
    line[LABEL + VALUE + 7] = '\n';
    console_write(line, sizeof line);
}

void table_title(const char *title)
{
    rule('-');
    print("| %-*.*s |\n", LABEL + VALUE + 3, LABEL + VALUE + 3, title);
}

void table_section(const char *name)
{
    rule('+');
    print("| %-*.*s | %-*s |\n", LABEL, LABEL, name, VALUE, "");
}

void table_row(const char *label, const char *text, ...)
{
    char value[256];
    va_list args;
    va_start(args, text);
    vformat(value, sizeof value, text, args);
    va_end(args);
    for (char *c = value; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
    print("|   %-*.*s | %-*.*s |\n", LABEL - 2, LABEL - 2, label, VALUE, VALUE, value);
    for (size_t shown = VALUE; shown < strlen(value); shown += VALUE)
        print("| %-*s | %-*.*s |\n", LABEL, "", VALUE, VALUE, value + shown);
}

void table_end(void)
{
    rule('+');
}
