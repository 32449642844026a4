/* The xenstore ring: reads, writes, directories, errors, transactions, watches, index wrap. */
#include "guest.h"

static char value[4096];

static void check_read(u32 tx, const char *path, const char *wanted)
{
    if (xs_read(tx, path, value, sizeof value) < 0)
        fail("read of %s: %s", path, xs_error);
    if (strcmp(value, wanted))
        fail("%s is '%s', not '%s'", path, value, wanted);
}

static void check_missing(u32 tx, const char *path)
{
    check_equal(xs_read(tx, path, value, sizeof value), XS_FAILED);
    if (strcmp(xs_error, "ENOENT"))
        fail("read of %s: %s, not ENOENT", path, xs_error);
}

static void writes(void)
{
    check(xs_write(XS_NO_TRANSACTION, "data/test/a", "one"));
    check(xs_write(XS_NO_TRANSACTION, "data/test/b", ""));
    check_read(XS_NO_TRANSACTION, "data/test/a", "one");
    check_equal(xs_read(XS_NO_TRANSACTION, "data/test/b", value, sizeof value), 0);
    check_missing(XS_NO_TRANSACTION, "data/test/c");
    check_equal(xs_directory(XS_NO_TRANSACTION, "data/test", value, sizeof value), 4);
    check(!memcmp(value, "a\0b\0", 4));
    check(xs_rm(XS_NO_TRANSACTION, "data/test/b"));
    check_missing(XS_NO_TRANSACTION, "data/test/b");
    check(!xs_write(XS_NO_TRANSACTION, "/local/domain/0/mine", "no"));
    check(!strcmp(xs_error, "EACCES"));
}

static void transactions(void)
{
    u32 tx = xs_transaction_start();
    check(xs_write(tx, "data/test/t", "inside"));
    check_read(tx, "data/test/t", "inside");
    check_missing(XS_NO_TRANSACTION, "data/test/t");
    check(xs_transaction_end(tx, false));
    check_missing(XS_NO_TRANSACTION, "data/test/t");
    tx = xs_transaction_start();
    check(xs_write(tx, "data/test/t", "kept"));
    check(xs_transaction_end(tx, true));
    check_read(XS_NO_TRANSACTION, "data/test/t", "kept");
    tx = xs_transaction_start();
    check_read(tx, "data/test/t", "kept");
    check(xs_write(XS_NO_TRANSACTION, "data/test/t", "outside"));
    check(xs_write(tx, "data/test/t", "conflict"));
    check(!xs_transaction_end(tx, true));
    check(!strcmp(xs_error, "EAGAIN"));
    check_read(XS_NO_TRANSACTION, "data/test/t", "outside");
}

static void watches(void)
{
    check(xs_watch("data/test", "token"));
    check(xs_watch_fires("data/test", "token", PATIENCE));
    check(xs_write(XS_NO_TRANSACTION, "data/test/w", "1"));
    check(xs_watch_fires("data/test/w", "token", PATIENCE));
    check(xs_unwatch("data/test", "token"));
    check(xs_write(XS_NO_TRANSACTION, "data/test/w", "2"));
    check_read(XS_NO_TRANSACTION, "data/test/w", "2");
    check(!xs_watch_fires("data/test/w", "token", 0));
}

/* Messages larger than the ring, and ring indices that go round it many times. */
static void wraps(void)
{
    static char message[2100];
    for (u32 i = 0; i < 20; i++) {
        u32 bytes = 1500 + i * 7;
        size_t path = (size_t)format(message, sizeof message, "data/test/big") + 1;
        for (u32 j = 0; j < bytes; j++)
            message[path + j] = (char)('a' + (i + j) % 26);
        check(xs_request(XS_WRITE, 0, message, path + bytes, value, sizeof value) >= 0);
        check_equal(xs_read(XS_NO_TRANSACTION, "data/test/big", value, sizeof value), bytes);
        check(!memcmp(value, message + path, bytes));
    }
}

void guest_main(void)
{
    writes();
    transactions();
    watches();
    wraps();
    check(xs_rm(XS_NO_TRANSACTION, "data/test"));
    check_missing(XS_NO_TRANSACTION, "data/test/a");
    print("SUCCESS\n");
}
