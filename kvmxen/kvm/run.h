/* A vCPU's kvm_run area (linux/kvm.h): what Cython cannot say of its unions. */
#ifndef KVMXEN_KVM_RUN_H
#define KVMXEN_KVM_RUN_H

#include <linux/kvm.h>

static inline struct kvm_regs *run_regs(struct kvm_run *run)
{
    return &run->s.regs.regs;
}

/* Whether the guest wrote to a port, and to which. */
static inline int run_is_out(const struct kvm_run *run)
{
    return run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_OUT;
}

static inline unsigned run_port(const struct kvm_run *run)
{
    return run->io.port;
}

static inline unsigned run_reason(const struct kvm_run *run)
{
    return run->exit_reason;
}

static inline unsigned run_suberror(const struct kvm_run *run)
{
    return run->internal.suberror;
}

/* Have KVM show the registers at each exit, and take them at the next entry. */
static inline void run_valid(struct kvm_run *run)
{
    run->kvm_valid_regs = KVM_SYNC_X86_REGS;
}

static inline void run_dirty(struct kvm_run *run)
{
    run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
}

static inline void run_immediate(struct kvm_run *run, int value)
{
    __atomic_store_n(&run->immediate_exit, (__u8)value, __ATOMIC_SEQ_CST);
}

#endif
