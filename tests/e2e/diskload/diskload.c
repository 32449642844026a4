/* What a guest does to its disk.
 *
 * diskload tree FOLDER FILES    makes files of all sizes up to 16 KiB, in 50 folders
 * diskload syncs FILE           appends numbered records for ever, and says which are synced
 * diskload hammer DEVICE BYTES  reads and writes a device for ever, in a few processes
 * diskload fill DEVICE RECORDS  writes numbered records; where one fails it looks at all before it,
 *                               waits for a line of input, and goes on with that one
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void tree(const char *folder, int files)
{
    static uint64_t data[2048];
    char path[256];

    for (int i = 0; i < 50; i++) {
        snprintf(path, sizeof(path), "%s/%d", folder, i);
        if (mkdir(path, 0755))
            err(1, "%s", path);
    }
    for (int i = 0; i < files; i++) {
        uint64_t seed = i + 1;
        int length = i * 37 % (int)sizeof(data) + 1;

        for (int n = 0; n * 8 < length; n++) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            data[n] = seed;
        }
        snprintf(path, sizeof(path), "%s/%d/%d", folder, i % 50, i);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (fd < 0 || write(fd, data, length) != length || close(fd))
            err(1, "%s", path);
    }
}

static void syncs(const char *path)
{
    char record[512];
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);

    if (fd < 0)
        err(1, "%s", path);
    for (unsigned n = 0;; n++) {
        memset(record, 'a' + n % 26, sizeof(record));
        snprintf(record, sizeof(record), "%u", n);
        if (write(fd, record, sizeof(record)) != sizeof(record) || fsync(fd))
            err(1, "%s", path);
        printf("[synced %u]\n", n);
        fflush(stdout);
    }
}

static void hammer(const char *path, long bytes)
{
    static char data[65536] __attribute__((aligned(4096)));
    uint64_t seed;

    for (int i = 1; i < 4; i++)
        if (fork() == 0)
            break;
    seed = getpid();
    int fd = open(path, O_RDWR | O_DIRECT);
    if (fd < 0)
        err(1, "%s", path);
    for (unsigned n = 0;; n++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        size_t length = 4096 << (seed >> 33) % 5;
        off_t where = (seed >> 40) * 4096 % (bytes - sizeof(data)) & -4096L;
        ssize_t done = seed & (1u << 20) ? pread(fd, data, length, where)
                                         : pwrite(fd, data, length, where);
        if (done != (ssize_t)length) {
            printf("[ended after %u: %s]\n", n, strerror(errno));
            fflush(stdout);
            break;
        }
    }
    /* Who waits for this process waits for all of them. */
    while (wait(NULL) > 0)
        ;
}

static void fill(const char *path, unsigned records)
{
    static char record[4096] __attribute__((aligned(4096)));
    static char read[4096] __attribute__((aligned(4096)));
    int fd = open(path, O_RDWR | O_DIRECT);

    if (fd < 0)
        err(1, "%s", path);
    for (unsigned n = 0; n < records; n++) {
        memset(record, 'a' + n % 26, sizeof(record));
        snprintf(record, sizeof(record), "%u", n);
        while (pwrite(fd, record, sizeof(record), n * 4096l) != sizeof(record)) {
            printf("[record %u: %s]\n", n, strerror(errno));
            for (unsigned before = 0; before < n; before++)
                if (pread(fd, read, sizeof(read), before * 4096l) != sizeof(read) ||
                    strtoul(read, NULL, 10) != before)
                    errx(1, "[record %u is lost]", before);
            printf("[all before it are there]\n");
            fflush(stdout);
            while (getchar() != '\n')
                ;
        }
    }
    if (fsync(fd))
        err(1, "%s", path);
    printf("[filled]\n");
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "tree"))
        tree(argv[2], atoi(argv[3]));
    else if (argc == 3 && !strcmp(argv[1], "syncs"))
        syncs(argv[2]);
    else if (argc == 4 && !strcmp(argv[1], "hammer"))
        hammer(argv[2], atol(argv[3]));
    else if (argc == 4 && !strcmp(argv[1], "fill"))
        fill(argv[2], (unsigned)atoi(argv[3]));
    else
        errx(2, "usage");
    return 0;
}
