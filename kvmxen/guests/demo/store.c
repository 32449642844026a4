/* The domain's own part of xenstore, as a tree. */
#include "demo.h"

#define DEPTH 6
#define MOST_NODES 64

static u32 nodes;

static void show_node(const char *path, const char *name, u32 depth)
{
    char label[64], value[128], child[256];
    static char lists[DEPTH + 1][512];
    char *list = lists[depth];
    if (++nodes > MOST_NODES)
        return;
    if (xs_read(XS_NO_TRANSACTION, path, value, sizeof value) < 0)
        fail("xenstore does not let %s be read: %s", path, xs_error);
    format(label, sizeof label, "%*s%s", (int)depth * 2, "", name);
    table_row(label, "%s", value);
    long length = depth < DEPTH ? xs_directory(XS_NO_TRANSACTION, path, list, sizeof lists[0]) : 0;
    if (length < 0)
        fail("xenstore does not let %s be listed: %s", path, xs_error);
    const char *end = list + ((size_t)length < sizeof lists[0] ? (size_t)length : sizeof lists[0]);
    for (const char *entry = list; entry < end; entry += strlen(entry) + 1) {
        format(child, sizeof child, "%s/%s", path, entry);
        show_node(child, entry, depth + 1);
    }
}

void show_xenstore(void)
{
    char domid[8], home[64];
    table_section("xenstore");
    if (xs_read(XS_NO_TRANSACTION, "domid", domid, sizeof domid) < 0)
        fail("xenstore does not let domid be read: %s", xs_error);
    long length = xs_request(XS_GET_DOMAIN_PATH, XS_NO_TRANSACTION, domid, strlen(domid) + 1, home,
                             sizeof home);
    if (length <= 0 || (size_t)length > sizeof home)
        fail("xenstore does not tell the path of domain %s: %s", domid, xs_error);
    show_node(home, home, 0);
    if (nodes > MOST_NODES)
        table_row("...", "more than %d nodes", MOST_NODES);
}
