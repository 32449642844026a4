/* Start of day: maps shared_info, readies the runtime, runs the guest, ends the domain. */
#include "entry.h"
#include "guest.h"

_Static_assert(BOOT_STACK_SIZE == STACK_SIZE, "start.S and guest.h agree on the stacks");

struct start_info *start_info;
struct shared_info *shared_info;

static char shared_info_page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

void start(struct start_info *info);

void shutdown(u32 reason)
{
    struct sched_shutdown arg = {reason};
    for (;;)
        sched_op(SCHEDOP_shutdown, &arg);
}

void fail(const char *text, ...)
{
    char line[256];
    va_list args;
    va_start(args, text);
    vformat(line, sizeof line, text, args);
    va_end(args);
    print("FAILURE: %s\n", line);
    shutdown(SHUTDOWN_crash);
}

u64 option(const char *name, u64 otherwise)
{
    size_t length = strlen(name);
    const char *word = start_info->cmd_line;
    const char *end = word + sizeof start_info->cmd_line;
    while (word < end && *word) {
        if (strncmp(word, name, length) == 0 && word[length] == '=') {
            const char *digit = word + length + 1;
            u64 base = 10, value = 0;
            if (digit[0] == '0' && digit[1] == 'x')
                base = 16, digit += 2;
            for (;; digit++) {
                u64 d = (u64)(*digit | 0x20);
                d = d >= 'a' ? d - 'a' + 10 : d - '0';
                if (d >= base)
                    return value;
                value = value * base + d;
            }
        }
        while (word < end && *word && *word != ' ')
            word++;
        while (word < end && *word == ' ')
            word++;
    }
    return otherwise;
}

void start(struct start_info *info)
{
    start_info = info;
    console_init();
    shared_info = (struct shared_info *)shared_info_page;
    long error = map_page((u64)shared_info, pte(info->shared_info >> PAGE_SHIFT, PTE_RW));
    if (error)
        fail("shared_info cannot be mapped: error %ld", error);
    traps_init();
    events_init();
    timer_init();
    xenstore_init();
    upcalls_on();
    guest_main();
    shutdown(SHUTDOWN_poweroff);
}
