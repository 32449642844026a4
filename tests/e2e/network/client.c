/* The guest's end of the network tests: bulk data with its CRC-32, and connections in a row.
 *
 *   client send HOST PORT BYTES      data of its own making, both ways of a connection open
 *   client receive HOST PORT         whatever comes, after a byte of ours, until the end
 *   client connect HOST PORT COUNT   one connection after the other, a byte from each
 *
 * It prints what it did in one line; anything that goes wrong ends it with a message.
 */

#include <err.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static uint64_t buffer[8192];
static uint32_t table[256];

static void make_table(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t value = i;
		for (int bit = 0; bit < 8; bit++)
			value = value >> 1 ^ (value & 1 ? 0xedb88320 : 0);
		table[i] = value;
	}
}

static uint32_t crc(uint32_t so_far, const void *data, size_t length)
{
	const uint8_t *byte = data;
	so_far = ~so_far;
	while (length--)
		so_far = table[(so_far ^ *byte++) & 0xff] ^ so_far >> 8;
	return ~so_far;
}

static int syn_was_repeated(int fd)
{
	struct tcp_info info;
	socklen_t length = sizeof(info);
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length))
		err(1, "TCP_INFO");
	return info.tcpi_total_retrans > 0;
}

/* The passt of Debian 12 resets a connection whose SYN comes again before the handshake is over,
 * as it does where the host is busy for a second: another connection takes its place.
 */
static int dial(const char *host, const char *port)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST };
	struct addrinfo *found;
	if (getaddrinfo(host, port, &hints, &found))
		errx(1, "%s is no address", host);
	int fd = -1;
	do {
		close(fd);
		fd = socket(found->ai_family, SOCK_STREAM, 0);
		if (fd < 0)
			err(1, "socket");
		if (connect(fd, found->ai_addr, found->ai_addrlen))
			err(1, "connect to %s", host);
	} while (syn_was_repeated(fd));
	freeaddrinfo(found);
	return fd;
}

static void send_bytes(int fd, unsigned long long left)
{
	uint64_t state = 88172645463325252ull;
	uint32_t sum = 0;
	unsigned long long total = left;
	while (left) {
		/* Marsaglia's xorshift64. */
		for (size_t i = 0; i < sizeof(buffer) / sizeof(*buffer); i++) {
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			buffer[i] = state;
		}
		size_t part = left < sizeof(buffer) ? left : sizeof(buffer);
		sum = crc(sum, buffer, part);
		left -= part;
		for (char *at = (char *)buffer; part;) {
			ssize_t done = write(fd, at, part);
			if (done < 0)
				err(1, "write");
			at += done;
			part -= done;
		}
	}
	shutdown(fd, SHUT_WR);
	/* The other end closes once it has it all. */
	if (read(fd, buffer, 1) != 0)
		errx(1, "an answer that nobody asked for");
	printf("sent %llu crc %08x\n", total, sum);
}

static void receive_bytes(int fd)
{
	unsigned long long total = 0;
	uint32_t sum = 0;
	if (write(fd, "?", 1) != 1)
		err(1, "write");
	for (;;) {
		ssize_t got = read(fd, buffer, sizeof(buffer));
		if (got < 0)
			err(1, "read");
		if (got == 0)
			break;
		sum = crc(sum, buffer, got);
		total += got;
	}
	printf("received %llu crc %08x\n", total, sum);
}

int main(int argc, char **argv)
{
	if (argc < 4)
		errx(2, "what?");
	make_table();
	unsigned long long amount = argc > 4 ? strtoull(argv[4], NULL, 10) : 0;
	if (!strcmp(argv[1], "send")) {
		send_bytes(dial(argv[2], argv[3]), amount);
	} else if (!strcmp(argv[1], "receive")) {
		receive_bytes(dial(argv[2], argv[3]));
	} else {
		for (unsigned long long i = 0; i < amount; i++) {
			int fd = dial(argv[2], argv[3]);
			if (read(fd, buffer, 2) != 1)
				errx(1, "connection %llu said nothing", i);
			close(fd);
		}
		printf("connected %llu times\n", amount);
	}
	return 0;
}
