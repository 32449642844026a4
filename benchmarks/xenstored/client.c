/*
 * A client that measures a xenstore on a Unix socket: CLIENTS connections with one request each
 * under way, so one connection is a ping-pong. Usage:
 *
 *   client SOCKET fill FIRST LAST                  make the nodes FIRST to LAST - 1
 *   client SOCKET OPERATION NODES CLIENTS SECONDS  print the operations a second, and their number
 *   client SOCKET start DOMAINS                    print the seconds, and the transactions made
 *                                                  again, of so many domains that start at once
 *
 * OPERATION is read, write, directory, transaction (start, a write, end) or watch (a write, and
 * its event). Node N is /bench/N/100/N%100, of 16 bytes.
 */

#define _GNU_SOURCE
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "xen/abi/io.h"

#define VALUE "0123456789abcdef"
/* What a domain's start writes, each a node of its own, and below its backend. */
#define STEPS 24

struct header {
    uint32_t type, request, transaction, length;
};

struct message {
    struct header header;
    char payload[XENSTORE_PAYLOAD_MAX];
};

/* `step` counts the replies within the operation under way. */
struct connection {
    int fd;
    unsigned number, step, awaited;
    uint32_t transaction;
    unsigned long random;
    size_t have;
    char buffer[2 * sizeof(struct message)];
};

static const char *operation;
static unsigned nodes;
static unsigned long done, again;

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void dial(struct connection *connection, const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    if (strlen(path) >= sizeof address.sun_path)
        errx(1, "%s is too long", path);
    strcpy(address.sun_path, path);
    connection->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(connection->fd, (struct sockaddr *)&address, sizeof address) < 0)
        err(1, "%s", path);
}

static void say(struct connection *connection, uint32_t type, const char *payload, size_t length)
{
    struct message message = {
        { type, connection->number,
          type == XS_TRANSACTION_START ? 0 : connection->transaction, (uint32_t)length },
        { 0 },
    };

    memcpy(message.payload, payload, length);
    length += sizeof message.header;
    if (write(connection->fd, &message, length) != (ssize_t)length)
        err(1, "write");
}

/* A request whose payload is `first`, a NUL, and then `second` with `tail` bytes of its NUL. */
static void ask(struct connection *connection, uint32_t type, const char *first,
                const char *second, size_t tail)
{
    char payload[XENSTORE_PAYLOAD_MAX];
    size_t length = strlen(first) + 1;

    memcpy(payload, first, length);
    memcpy(payload + length, second, strlen(second) + tail);
    say(connection, type, payload, length + strlen(second) + tail);
}

/* The next whole message: its type, with its payload at *payload; 0 where there is none yet. */
static uint32_t next(struct connection *connection, char *payload)
{
    struct header header;
    size_t size;

    if (connection->have < sizeof header)
        return 0;
    memcpy(&header, connection->buffer, sizeof header);
    size = sizeof header + header.length;
    if (connection->have < size)
        return 0;
    memcpy(payload, connection->buffer + sizeof header, header.length);
    payload[header.length] = 0;
    connection->have -= size;
    memmove(connection->buffer, connection->buffer + size, connection->have);
    return header.type;
}

static void receive(struct connection *connection)
{
    ssize_t got = read(connection->fd, connection->buffer + connection->have,
                       sizeof connection->buffer - connection->have);

    if (got <= 0)
        err(1, "the server closed the connection");
    connection->have += (size_t)got;
}

static void node(struct connection *connection, char *path)
{
    unsigned number;

    connection->random = connection->random * 6364136223846793005UL + 1442695040888963407UL;
    number = (unsigned)(connection->random >> 33) % nodes;
    sprintf(path, "/bench/%u/%u", number / 100, number % 100);
}

/* Each sends the request of `step` and says how many messages are to come for it. */

static unsigned step_simple(struct connection *connection)
{
    char path[64];

    node(connection, path);
    if (!strcmp(operation, "directory"))
        *strrchr(path, '/') = 0;
    if (!strcmp(operation, "write"))
        ask(connection, XS_WRITE, path, VALUE, 0);
    else
        ask(connection, strcmp(operation, "read") ? XS_DIRECTORY : XS_READ, path, "", 0);
    return 1;
}

static unsigned step_watch(struct connection *connection)
{
    char path[64];

    sprintf(path, "/watched/%u", connection->number);
    ask(connection, XS_WRITE, path, VALUE, 0);
    return 2;
}

static unsigned step_transaction(struct connection *connection)
{
    char path[64];

    if (connection->step == 0)
        ask(connection, XS_TRANSACTION_START, "", "", 0);
    else if (connection->step == 1) {
        /* Of its own, so that nobody else's commit disturbs it. */
        sprintf(path, "/own/%u/node", connection->number);
        ask(connection, XS_WRITE, path, VALUE, 0);
    } else
        ask(connection, XS_TRANSACTION_END, "T", "", 0);
    return 1;
}

static unsigned step_start(struct connection *connection)
{
    unsigned step = connection->step, domain = connection->number + 1;
    char path[128];

    if (step == 0) {
        ask(connection, XS_TRANSACTION_START, "", "", 0);
        return 1;
    }
    if (step == STEPS) {
        ask(connection, XS_TRANSACTION_END, "T", "", 0);
        return 1;
    }
    if (step % 2)
        sprintf(path, "/local/domain/%u/device/vbd/%u/state", domain, step);
    else
        sprintf(path, "/local/domain/0/backend/vbd/%u/%u/state", domain, step);
    ask(connection, XS_WRITE, path, "1", 0);
    return 1;
}

static unsigned (*step_of(const char *name, unsigned *steps))(struct connection *)
{
    *steps = 1;
    if (!strcmp(name, "watch"))
        return step_watch;
    if (!strcmp(name, "transaction")) {
        *steps = 3;
        return step_transaction;
    }
    if (!strcmp(name, "start")) {
        *steps = STEPS + 1;
        return step_start;
    }
    return step_simple;
}

/* One request and its reply, which must be no error. */
static void once(struct connection *connection, uint32_t type, const char *first,
                 const char *second, size_t tail)
{
    char payload[XENSTORE_PAYLOAD_MAX + 1];
    uint32_t reply;

    ask(connection, type, first, second, tail);
    do {
        while (!(reply = next(connection, payload)))
            receive(connection);
        if (reply == XS_ERROR)
            errx(1, "%s: %s", first, payload);
    } while (reply != type);
}

static void fill(const char *path, unsigned from, unsigned to)
{
    struct connection connection = { 0 };
    char name[64];

    dial(&connection, path);
    for (; from < to; from++) {
        sprintf(name, "/bench/%u/%u", from / 100, from % 100);
        once(&connection, XS_WRITE, name, VALUE, 0);
    }
}

/* A message came: go on with the operation, or with the next one unless it is `over`. */
static int advance(struct connection *connection, uint32_t type, const char *payload,
                   unsigned steps, unsigned (*step)(struct connection *), int over)
{
    if (type == XS_ERROR) {
        if (strcmp(payload, "EAGAIN") || connection->step != steps - 1)
            errx(1, "%s, step %u: %s", operation, connection->step, payload);
        again++;
        connection->step = 0;
        connection->transaction = 0;
        connection->awaited = step(connection);
        return 1;
    }
    if (type == XS_TRANSACTION_START)
        connection->transaction = (uint32_t)strtoul(payload, NULL, 10);
    if (type == XS_TRANSACTION_END)
        connection->transaction = 0;
    if (--connection->awaited)
        return 1;
    if (++connection->step == steps) {
        connection->step = 0;
        done++;
        if (over)
            return 0;
    }
    connection->awaited = step(connection);
    return 1;
}

static void run(const char *path, unsigned count, double seconds)
{
    unsigned steps, busy = count;
    unsigned (*step)(struct connection *) = step_of(operation, &steps);
    struct connection *connections = calloc(count, sizeof *connections);
    int once_each = seconds == 0, poll = epoll_create1(0);
    char payload[XENSTORE_PAYLOAD_MAX + 1];
    struct epoll_event events[64];
    double start, end;

    for (unsigned i = 0; i < count; i++) {
        struct connection *connection = &connections[i];
        struct epoll_event event = { .events = EPOLLIN, .data.ptr = connection };
        char name[64];

        connection->number = i;
        connection->random = i * 0x9e3779b97f4a7c15UL;
        dial(connection, path);
        sprintf(name, "/watched/%u", i);
        if (step == step_watch) {
            once(connection, XS_WATCH, name, "token", 1);
            while (next(connection, payload) != XS_WATCH_EVENT)
                receive(connection);
        }
        epoll_ctl(poll, EPOLL_CTL_ADD, connection->fd, &event);
    }
    start = now();
    end = start + seconds;
    for (unsigned i = 0; i < count; i++)
        connections[i].awaited = step(&connections[i]);
    while (busy) {
        /* With one connection there is nothing to choose from. */
        int ready = count == 1 ? 1 : epoll_wait(poll, events, 64, -1);
        int over = once_each || now() >= end;

        for (int i = 0; i < ready; i++) {
            struct connection *connection = count == 1 ? connections : events[i].data.ptr;
            uint32_t type;

            receive(connection);
            while ((type = next(connection, payload)))
                if (!advance(connection, type, payload, steps, step, over))
                    busy--;
        }
    }
    if (once_each)
        printf("%f %lu\n", now() - start, again);
    else
        printf("%f %lu\n", (double)done / (now() - start), done);
}

int main(int count, char **arguments)
{
    if (count == 5 && !strcmp(arguments[2], "fill")) {
        fill(arguments[1], (unsigned)atoi(arguments[3]), (unsigned)atoi(arguments[4]));
        return 0;
    }
    operation = arguments[2];
    if (count == 4)
        run(arguments[1], (unsigned)atoi(arguments[3]), 0);
    else if (count == 6) {
        nodes = (unsigned)atoi(arguments[3]);
        run(arguments[1], (unsigned)atoi(arguments[4]), atof(arguments[5]));
    } else
        errx(2, "see the head of client.c");
    return 0;
}
