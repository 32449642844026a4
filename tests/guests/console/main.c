/* Console input: each line comes back as "echo: ...", the line "quit" ends the guest. */
#include "guest.h"

static void ignore(evtchn_port_t port)
{
    (void)port;
}

void guest_main(void)
{
    char line[128];
    size_t length = 0;
    event_handle(start_info->console_evtchn, ignore);
    print("console ready\n");
    for (;;) {
        char c;
        if (!wait_for(console_has_input, PATIENCE))
            fail("no input");
        while (console_read(&c, 1)) {
            if (c != '\n' && c != '\r') {
                if (length < sizeof line - 1)
                    line[length++] = c;
                continue;
            }
            line[length] = '\0';
            length = 0;
            print("echo: %s\n", line);
            if (!strcmp(line, "quit")) {
                print("SUCCESS\n");
                return;
            }
        }
    }
}
