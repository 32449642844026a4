/* A block frontend that lies, in all that it can say, and with a mutator: a vCPU that changes what
 * it said while the backend looks. Each lie is answered with an error, or ends the connection, and
 * nothing else: the next honest request, or the next that connects, is served. */
#include "blkfront.h"

void guest_main(void)
{
    xenstore_init();
    grants_init();
    frontend_init();
    mutator_init();
    nodes_that_lie();
    rings_that_lie();
    requests_that_lie();
    indirect_pages_that_lie();
    grants_that_lie();
    fields_that_change();
    connect(0, false);
    check_serves();
    disconnect();
    print("SUCCESS\n");
}
