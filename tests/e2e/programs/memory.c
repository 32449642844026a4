#include "workload.h"

#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define PIECES 4
#define PIECE (50ul << 20)

static uint64_t *word(char *piece, size_t offset)
{
    return (uint64_t *)(piece + offset);
}

static void check(char *piece, size_t from, uint64_t tag)
{
    for (size_t at = from; at < PIECE; at += PAGE)
        require(*word(piece, at) == (at ^ tag) && *word(piece, at + PAGE - 8) == tag);
}

/* Writes to a few pages: the parent must not see it. */
static void copy_on_write(char *piece, uint64_t tag)
{
    int status;
    pid_t pid = fork();
    require(pid >= 0);
    if (!pid) {
        for (size_t at = 0; at < PIECE; at += 256 * PAGE)
            *word(piece, at) = 1;
        _exit(*word(piece, 256 * PAGE) == 1 ? 0 : 1);
    }
    require(waitpid(pid, &status, 0) == pid && status == 0);
    check(piece, 0, tag);
}

void memory(void)
{
    char *pieces[PIECES];
    for (uint64_t i = 0; i < PIECES; i++) {
        char *piece = pieces[i] =
            mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        require(piece != MAP_FAILED);
        for (size_t at = 0; at < PIECE; at += PAGE) {
            *word(piece, at) = at ^ i;
            *word(piece, at + PAGE - 8) = i;
        }
    }
    for (uint64_t i = 0; i < PIECES; i++)
        check(pieces[i], 0, i);
    copy_on_write(pieces[1], 1);
    require(mprotect(pieces[0], PIECE / 2, PROT_READ) == 0);
    check(pieces[0], 0, 0);
    require(munmap(pieces[0], PIECE / 2) == 0);
    check(pieces[0], PIECE / 2, 0);
    require(madvise(pieces[2], PIECE, MADV_DONTNEED) == 0);
    for (size_t at = 0; at < PIECE; at += 16 * PAGE)
        require(*word(pieces[2], at) == 0);
    require(munmap(pieces[0] + PIECE / 2, PIECE / 2) == 0);
    for (uint64_t i = 1; i < PIECES; i++)
        require(munmap(pieces[i], PIECE) == 0);
}
