/* Requests of a guest to its disk, past its page cache: disk FILE. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <sys/syscall.h>

#include "rounds.h"

#define LARGEST (128 << 10)
#define DEEPEST 32

static struct pattern {
    const char *name;
    long rounds, size, depth;
    int write, random;
} pattern;

static int file;
static uint64_t blocks, next, state = 88172645463325252;
static char *buffers;

static uint64_t random_number(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void prepare(struct iocb *request, long buffer)
{
    uint64_t block = pattern.random ? random_number() : next++;
    *request = (struct iocb){
        .aio_data = buffer,
        .aio_fildes = file,
        .aio_lio_opcode = pattern.write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
        .aio_buf = (uint64_t)(buffers + buffer * LARGEST),
        .aio_nbytes = pattern.size,
        .aio_offset = block % (blocks * LARGEST / pattern.size) * pattern.size,
    };
}

/* `depth` requests are under way until there are no more: one follows each that is done. */
static void requests(long rounds)
{
    aio_context_t context = 0;
    struct iocb all[DEEPEST], *started[DEEPEST];
    struct io_event done[DEEPEST];
    long left = rounds, under_way = 0, free = pattern.depth;
    need(!syscall(SYS_io_setup, DEEPEST, &context), "io_setup");
    for (long i = 0; i < free; i++)
        done[i].data = i;
    while (left || under_way) {
        long count = free < left ? free : left;
        for (long i = 0; i < count; i++)
            prepare(started[i] = &all[done[i].data], done[i].data);
        if (count)
            need(syscall(SYS_io_submit, context, count, started) == count, "io_submit");
        left -= count;
        under_way += count;
        free = syscall(SYS_io_getevents, context, 1, DEEPEST, done, NULL);
        need(free > 0, "io_getevents");
        for (long i = 0; i < free; i++)
            need(done[i].res == pattern.size, "a request");
        under_way -= free;
    }
    syscall(SYS_io_destroy, context);
}

int main(int argc, char **argv)
{
    static const struct pattern patterns[] = {
        {"read_4k_1", 2000, 4 << 10, 1, 0, 1},
        {"read_4k_32", 10000, 4 << 10, 32, 0, 1},
        {"write_4k_1", 2000, 4 << 10, 1, 1, 1},
        {"write_4k_32", 10000, 4 << 10, 32, 1, 1},
        {"read_128k_8", 1000, LARGEST, 8, 0, 0},
        {"write_128k_8", 1000, LARGEST, 8, 1, 0},
    };
    setvbuf(stdout, NULL, _IOLBF, 0);
    file = argc > 1 ? open(argv[1], O_RDWR | O_DIRECT) : -1;
    need(file >= 0, "the disk");
    blocks = lseek(file, 0, SEEK_END) / LARGEST;
    buffers = aligned_alloc(4096, DEEPEST * LARGEST);
    need(buffers && blocks, "buffers");
    bench("nothing", nothing, 1);
    for (unsigned i = 0; i < sizeof(patterns) / sizeof(*patterns); i++) {
        pattern = patterns[i];
        bench(pattern.name, requests, pattern.rounds);
    }
    return 0;
}
