/* What each frame is used for, as the host and the dispatcher count it: a word for each, which both
 * change atomically. Three counts of 16 bits say how many entries of tables lead to the frame as to
 * a table of level 1, 2 and 3; one of 8 bits, how many base pointers do, as to a table of level 4;
 * and four bits at which level it is pinned. A frame is a table of each level that it is counted or
 * pinned at: only a guest that Xen would not let do that has tables of two levels in one.
 *
 * A count that has reached its end stays there, and the frame is a table for good.
 */
#ifndef KVMXEN_SHIM_TYPES_H
#define KVMXEN_SHIM_TYPES_H

#include <stdint.h>

#define TYPE_COUNT(level) ((level) < 4 ? 0xffffull << 16 * ((level) - 1) : 0xffull << 48)
#define TYPE_PINNED(level) (1ull << (55 + (level)))
#define TYPE_PINS (0xfull << 56)
/* All of a table above level 1, whose entries lead to tables. */
#define TYPE_UPPER (~(TYPE_COUNT(1) | TYPE_PINNED(1)))

/* Whether a frame of this type is a table of `level`. */
static inline int type_is(uint64_t type, int level)
{
    return (type & (TYPE_COUNT(level) | TYPE_PINNED(level))) != 0;
}

/* The level that it is pinned at, 0 for none. */
static inline int type_pinned(uint64_t type)
{
    type &= TYPE_PINS;
    return type ? __builtin_ctzll(type) - 55 : 0;
}

/* Count one more that leads to the frame; whether that makes it a table of `level`. */
static inline int type_get(uint64_t *where, int level)
{
    uint64_t count = TYPE_COUNT(level), old = __atomic_load_n(where, __ATOMIC_SEQ_CST);

    do
        if ((old & count) == count)
            return 0;
    while (!__atomic_compare_exchange_n(where, &old, old + (count & -count), 0, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST));
    return !type_is(old, level);
}

/* Count one less, if there is one; whether the frame is no table of `level` any more. */
static inline int type_put(uint64_t *where, int level)
{
    uint64_t count = TYPE_COUNT(level), old = __atomic_load_n(where, __ATOMIC_SEQ_CST), left;

    do {
        left = old - (count & -count);
        if (!(old & count) || (old & count) == count)
            return 0;
    } while (!__atomic_compare_exchange_n(where, &old, left, 0, __ATOMIC_SEQ_CST,
                                          __ATOMIC_SEQ_CST));
    return !type_is(left, level);
}

/* Pin the frame at `level`, 0 for none, and no more at another; what its type was before. */
static inline uint64_t type_pin(uint64_t *where, int level)
{
    uint64_t pin = level ? TYPE_PINNED(level) : 0, old = __atomic_load_n(where, __ATOMIC_SEQ_CST);

    while (!__atomic_compare_exchange_n(where, &old, (old & ~TYPE_PINS) | pin, 0, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST))
        ;
    return old;
}

#endif
