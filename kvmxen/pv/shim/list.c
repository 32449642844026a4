/* Hypercalls that take a list of operations: its address, length, where the number that succeeded is
 * wanted, and a domain.
 */
#include "dispatch.h"

#define MAX_BATCH 0x10000
#define MAX_WORDS 3

/* Do each operation, of `words` words, until one is the host's; f->done counts them. */
int for_each(state *s, frame *f, u32 words, int (*operation)(state *, const u64 *))
{
    u64 count = (u32)f->rsi;

    if (count > MAX_BATCH || (u32)f->r10 != DOMID_SELF)
        return HOST;
    /* The number must be writable at the end. */
    if (f->rdx && (f->rdx & 3 || !translate(s->kernel_cr3, f->rdx, true)))
        return HOST;
    for (; f->done < count; f->done++) {
        u64 body[MAX_WORDS];
        u64 at = f->rdi + f->done * words * 8;
        for (u32 word = 0; word < words; word++)
            if (load(s->kernel_cr3, at + word * 8, &body[word]))
                return HOST;
        if (operation(s, body))
            return HOST;
    }
    if (f->rdx) {
        /* The list may have taken it out of sight. */
        u32 *done = translate(s->kernel_cr3, f->rdx, true);
        if (done)
            *done = (u32)count;
    }
    f->rax = 0;
    return DONE;
}
