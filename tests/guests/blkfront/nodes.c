/* Nodes of the xenstore that name what there is not. */
#include "blkfront.h"

void nodes_that_lie(void)
{
    static const struct {
        const char *key, *value;
    } lies[] = {
        {"protocol", "sparc"},
        {"ring-ref", "7"},
        {"ring-ref", "40000"},
        {"ring-ref", "4294967295"},
        {"ring-ref", "99999999999999999999"},
        {"ring-ref", "-1"},
        {"ring-page-order", "5"},
        {"num-ring-pages", "3"},
        {"num-ring-pages", "2"},
        {"event-channel", "0"},
        {"event-channel", "4000"},
        {"event-channel", "x"},
        {"feature-persistent", "2"},
        {"multi-queue-num-queues", "0"},
        {"multi-queue-num-queues", "2"},
        {"multi-queue-num-queues", "99"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        prepare(0, false);
        xenbus_say(&vbd, lies[i].key, lies[i].value);
        xenbus_put(&vbd, "state", XenbusStateInitialised);
        refused();
    }
    connect(0, false);
    check_serves();
    /* While it is connected they are not looked at. */
    xenbus_put(&vbd, "ring-page-order", 4);
    xenbus_put(&vbd, "num-ring-pages", 16);
    xenbus_put(&vbd, "ring-ref", NO_REF);
    xenbus_put(&vbd, "event-channel", 1);
    xenbus_put(&vbd, "state", XenbusStateConnected);
    check_serves();
    disconnect();
}
