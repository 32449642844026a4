/* Packets between a guest and the measured machine's own end of its link.
 *
 *   net HOST     the guest's end, which measures
 *   net          the other end
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "rounds.h"

#define PORT 5001
#define CHUNK (64 << 10)
#define SMALL 64
#define BURST 32

/* A bulk transfer begins with one. */
struct transfer {
    uint64_t bytes;
    uint64_t from_guest;
};

static struct sockaddr_in address;
static char data[CHUNK];
static int datagrams;

static int make(int type)
{
    int one = 1, made = socket(AF_INET, type, 0);
    need(made >= 0, "socket");
    need(!setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), "SO_REUSEADDR");
    return made;
}

static void put(int to, uint64_t bytes)
{
    while (bytes) {
        ssize_t done = write(to, data, bytes < CHUNK ? bytes : CHUNK);
        need(done > 0, "write");
        bytes -= done;
    }
}

static void take(int from, uint64_t bytes)
{
    while (bytes) {
        ssize_t done = read(from, data, bytes < CHUNK ? bytes : CHUNK);
        need(done > 0, "read");
        bytes -= done;
    }
}

/* One connection: what was sent is answered by a byte when all of it is there. */
static void bulk(long rounds, int from_guest)
{
    struct transfer transfer = {(uint64_t)rounds * CHUNK, from_guest};
    int connection = make(SOCK_STREAM);
    need(!connect(connection, (void *)&address, sizeof(address)), "connect");
    need(write(connection, &transfer, sizeof(transfer)) == sizeof(transfer), "write");
    if (from_guest) {
        put(connection, transfer.bytes);
        take(connection, 1);
    } else {
        take(connection, transfer.bytes);
    }
    close(connection);
}

static void bulk_out(long rounds)
{
    bulk(rounds, 1);
}

static void bulk_in(long rounds)
{
    bulk(rounds, 0);
}

static void serve_bulk(void)
{
    int listening = make(SOCK_STREAM);
    need(!bind(listening, (void *)&address, sizeof(address)), "bind");
    need(!listen(listening, 1), "listen");
    for (;;) {
        struct transfer transfer;
        int connection = accept(listening, NULL, NULL);
        need(connection >= 0, "accept");
        need(read(connection, &transfer, sizeof(transfer)) == sizeof(transfer), "read");
        if (transfer.from_guest) {
            take(connection, transfer.bytes);
            put(connection, 1);
        } else {
            put(connection, transfer.bytes);
        }
        close(connection);
    }
}

/* `out` packets, the last of which asks for `in`. */
static void exchange(int out, uint32_t in)
{
    uint32_t packet[SMALL / 4] = {0};
    for (int i = 0; i < out; i++) {
        packet[0] = i == out - 1 ? in : 0;
        need(send(datagrams, packet, SMALL, 0) == SMALL, "send");
    }
    for (uint32_t i = 0; i < in; i++)
        need(recv(datagrams, packet, SMALL, 0) == SMALL, "recv");
}

static void there_and_back(long rounds)
{
    for (long i = 0; i < rounds; i++)
        exchange(1, 1);
}

static void packets_out(long rounds)
{
    for (long i = 0; i < rounds; i += BURST)
        exchange(BURST, 1);
}

static void packets_in(long rounds)
{
    for (long i = 0; i < rounds; i += BURST)
        exchange(1, BURST);
}

static void serve_packets(void)
{
    datagrams = make(SOCK_DGRAM);
    need(!bind(datagrams, (void *)&address, sizeof(address)), "bind");
    for (;;) {
        uint32_t packet[SMALL / 4];
        struct sockaddr_in peer;
        socklen_t length = sizeof(peer);
        need(recvfrom(datagrams, packet, SMALL, 0, (void *)&peer, &length) == SMALL, "recvfrom");
        for (uint32_t left = packet[0]; left; left--)
            need(sendto(datagrams, packet, SMALL, 0, (void *)&peer, length) == SMALL, "sendto");
    }
}

int main(int argc, char **argv)
{
    struct timeval patience = {.tv_sec = 20};
    setvbuf(stdout, NULL, _IOLBF, 0);
    address.sin_family = AF_INET;
    address.sin_port = htons(PORT);
    if (argc < 2) {
        if (fork())
            serve_bulk();
        serve_packets();
    }
    need(inet_pton(AF_INET, argv[1], &address.sin_addr) == 1, "the address");
    datagrams = make(SOCK_DGRAM);
    need(!setsockopt(datagrams, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), "timeout");
    need(!connect(datagrams, (void *)&address, sizeof(address)), "connect");
    /* Both ends learn the other's hardware address. */
    exchange(1, 1);
    bench("nothing", nothing, 1);
    bench("there_and_back", there_and_back, 2000);
    bench("packets_out", packets_out, 100 * BURST);
    bench("packets_in", packets_in, 100 * BURST);
    bench("bulk_out", bulk_out, 256);
    bench("bulk_in", bulk_in, 256);
    return 0;
}
