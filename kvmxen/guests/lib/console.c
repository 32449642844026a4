/* The console: the ring of start_info.console (xen/include/public/io/console.h). */
#include "guest.h"

static struct xencons_interface *ring;
static u32 lock;

void console_init(void)
{
    ring = mfn_to_va(start_info->console_mfn);
    if (!ring) /* no console to say it on */
        shutdown(SHUTDOWN_crash);
}

static void notify(void)
{
    evtchn_send(start_info->console_evtchn);
}

static void put(char c)
{
    u32 producer = ring->out_prod;
    while (producer - load_acquire(&ring->out_cons) >= sizeof ring->out) {
        notify();
        sched_op(SCHEDOP_yield, NULL);
    }
    ring->out[producer % sizeof ring->out] = c;
    store_release(&ring->out_prod, producer + 1);
}

void console_write(const char *bytes, size_t count)
{
    spin_lock(&lock);
    for (; count; count--, bytes++) {
        if (*bytes == '\n')
            put('\r');
        put(*bytes);
    }
    notify();
    spin_unlock(&lock);
}

bool console_has_input(void)
{
    return load_acquire(&ring->in_prod) != ring->in_cons;
}

size_t console_read(char *to, size_t most)
{
    size_t count = 0;
    u32 producer = load_acquire(&ring->in_prod), consumer = ring->in_cons;
    while (count < most && consumer != producer)
        to[count++] = ring->in[consumer++ % sizeof ring->in];
    store_release(&ring->in_cons, consumer);
    if (count)
        notify();
    return count;
}

void print(const char *text, ...)
{
    char line[512];
    va_list args;
    va_start(args, text);
    int length = vformat(line, sizeof line, text, args);
    va_end(args);
    console_write(line, (size_t)length < sizeof line ? (size_t)length : sizeof line - 1);
}
