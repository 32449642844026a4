/* Event channels: what is raised in the guest on its own vCPU, as kvmxen/xen/events.py raises it. */
#include "dispatch.h"

/* Ring 0 only. */
void end_interrupt(void)
{
    __asm__ volatile("wrmsr" : : "c"(MSR_X2APIC_EOI), "a"(0), "d"(0));
}

/* Have another vCPU look. Ring 0 only. */
void interrupt(u32 vcpu)
{
    __asm__ volatile("wrmsr" : : "c"(MSR_X2APIC_ICR), "a"(VECTOR_EVENT), "d"(vcpu) : "memory");
}

/* Make the port pending on vCPU `s`: whether it was not. */
bool raise_port(state *s, u32 port)
{
    u64 *shared = machine(domain()->shared_info_gpa);
    u64 bit = 1ul << (port & 63);
    u64 word = port >> 6 & 63;
    u8 *info = vcpu_info(s);

    if (__atomic_fetch_or(shared + SHARED_INFO_EVTCHN_PENDING / 8 + word, bit, __ATOMIC_SEQ_CST) & bit)
        return false;
    if (__atomic_load_n(shared + SHARED_INFO_EVTCHN_MASK / 8 + word, __ATOMIC_SEQ_CST) & bit)
        return true;
    if (!(__atomic_fetch_or((u64 *)(info + VCPU_INFO_PENDING_SEL), 1ul << word, __ATOMIC_SEQ_CST)
          >> word & 1))
        info[VCPU_INFO_UPCALL_PENDING] = 1;
    return true;
}

/* EVTCHNOP_send to a backend that KVM tells of it, or an IPI: the host's process sees no exit. */
int send(state *s, u32 port)
{
    u32 kind = port < SHIM_PORTS ? domain()->ports[port] : PORT_HOST;

    if (kind == PORT_HOST)
        return HOST;
    if (kind == PORT_DOORBELL) {
        __asm__ volatile("out %0, %1" : : "a"(port), "d"((u16)DOORBELL_PORT) : "memory");
        return DONE;
    }
    u32 vcpu = kind - PORT_IPI;
    if (vcpu == s->index)
        s->sent_to_itself = 1;
    /* Only ring 0 can interrupt another. */
    if (vcpu != s->index && domain()->in_ring3)
        return HOST;
    if (!raise_port(state_of_vcpu(s, vcpu), port))
        return DONE;
    s->delivered++;
    if (vcpu != s->index)
        interrupt(vcpu);
    return DONE;
}

/* Another's kick, for events, for a flush, or to have the host asked. Ring 0 only. */
int look(state *s)
{
    if (s->look)
        return HOST;
    serve_flushes(s);
    end_interrupt();
    return DONE;
}
