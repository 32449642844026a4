/* A block frontend as tight as it can be: `total` requests, `depth` of them at a time. */
#include <stdint.h>
#include <string.h>
#include <unistd.h>

struct ring {
    uint8_t *shared;
    uint32_t entries;
    int kick, notified;      /* eventfds: to the backend, and from it */
    uint32_t operation;      /* 0 reads, 1 writes */
    uint32_t segments;       /* pages a request; more than 11 are indirect */
    uint64_t places;         /* how many requests the disk has room for, one behind the other */
    uint32_t sequential;
    const uint32_t *refs;    /* `segments` grants for each of `depth` slots */
    const uint32_t *pages;   /* a grant a slot, of its page of segments */
};

#define WORD(ring, n) ((uint32_t *)(ring)->shared + (n))

static void put(struct ring *ring, uint32_t index, uint64_t slot, uint64_t place)
{
    uint8_t *entry = ring->shared + 64 + (index & (ring->entries - 1)) * 112;
    uint64_t sector = place * ring->segments * 8;

    memset(entry, 0, 112);
    memcpy(entry + 8, &slot, 8);
    memcpy(entry + 16, &sector, 8);
    if (ring->segments > 11) {
        uint16_t count = ring->segments;
        entry[0] = 6;
        entry[1] = ring->operation;
        memcpy(entry + 2, &count, 2);
        memcpy(entry + 28, &ring->pages[slot], 4);
        return;
    }
    entry[0] = ring->operation;
    entry[1] = ring->segments;
    for (uint32_t n = 0; n < ring->segments; n++) {
        memcpy(entry + 24 + 8 * n, &ring->refs[slot * ring->segments + n], 4);
        entry[24 + 8 * n + 5] = 7;
    }
}

/* Returns how many requests failed; counts kicks and waits. */
long drive(struct ring *ring, uint32_t depth, uint32_t total, uint64_t *kicks, uint64_t *waits)
{
    uint32_t prod = *WORD(ring, 0), cons = prod, sent = 0, done = 0;
    uint64_t random = 88172645463325252u, one = 1, place, slot, free[1024];
    uint32_t left = depth;
    long failed = 0;

    for (uint32_t n = 0; n < depth; n++)
        free[n] = n;
    while (done < total) {
        uint32_t old = prod;
        for (; left && sent < total; sent++) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            place = (ring->sequential ? sent : random) % ring->places;
            put(ring, prod++, free[--left], place);
        }
        if (prod != old) {
            __atomic_store_n(WORD(ring, 0), prod, __ATOMIC_SEQ_CST);
            if (prod - __atomic_load_n(WORD(ring, 1), __ATOMIC_SEQ_CST) < prod - old) {
                (void)!write(ring->kick, &one, 8);
                ++*kicks;
            }
        }
        if (__atomic_load_n(WORD(ring, 2), __ATOMIC_ACQUIRE) == cons) {
            __atomic_store_n(WORD(ring, 3), cons + 1, __ATOMIC_SEQ_CST);
            if (__atomic_load_n(WORD(ring, 2), __ATOMIC_SEQ_CST) == cons) {
                (void)!read(ring->notified, &place, 8);
                ++*waits;
            }
        }
        for (; cons != __atomic_load_n(WORD(ring, 2), __ATOMIC_ACQUIRE); cons++, done++) {
            uint8_t *entry = ring->shared + 64 + (cons & (ring->entries - 1)) * 112;
            memcpy(&slot, entry, 8);
            failed += entry[10] != 0;
            free[left++] = slot;
        }
    }
    return failed;
}
