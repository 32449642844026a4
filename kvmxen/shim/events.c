/* Event channels: what is raised in the guest on its own vCPU, as kvmxen/events.py raises it. */
#include "dispatch.h"

#define SHARED_PENDING 2048
#define SHARED_MASK 2560
#define MSR_X2APIC_EOI 0x80bu

/* Ring 0 only. */
void end_interrupt(void)
{
    __asm__ volatile("wrmsr" : : "c"(MSR_X2APIC_EOI), "a"(0), "d"(0));
}

void raise_port(state *s, u32 port)
{
    u64 *shared = machine(domain()->shared_info_gpa);
    u64 bit = 1ul << (port & 63);
    u64 word = port >> 6 & 63;
    u8 *info = vcpu_info(s);

    if (__atomic_fetch_or(shared + SHARED_PENDING / 8 + word, bit, __ATOMIC_SEQ_CST) & bit)
        return;
    s->delivered++;
    if (__atomic_load_n(shared + SHARED_MASK / 8 + word, __ATOMIC_SEQ_CST) & bit)
        return;
    if (!(__atomic_fetch_or((u64 *)(info + INFO_PENDING_SEL), 1ul << word, __ATOMIC_SEQ_CST)
          >> word & 1))
        info[INFO_UPCALL_PENDING] = 1;
}

/* Another's kick: something is pending, or the host wants to be asked. Ring 0 only. */
int look(state *s)
{
    if (s->look)
        return HOST;
    end_interrupt();
    return DONE;
}
