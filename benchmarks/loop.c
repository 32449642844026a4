/* The least that a program can do with an exit of the gate: what kvmxen's loop is measured against.
 *
 * A library, so that both loops drive the same vCPU of the same VM. Each function returns the
 * exits that it took, or -1 where one was not what it should be.
 */
#include <linux/kvm.h>
#include <stdint.h>
#include <sys/ioctl.h>

#include "xen/abi/x86.h"
#include "xen/abi/xen.h"
#include "pv/shim/abi.h"

enum { VERSION = 0x40011 };

struct vcpu {
    int fd;
    struct kvm_run *run;
    uint8_t *part;    /* the vCPU's part of the shim */
    uint64_t part_va; /* and where the gate sees it */
};

static int enter(const struct vcpu *v, uint64_t rip, uint64_t rsp)
{
    struct kvm_regs *regs = &v->run->s.regs.regs;
    regs->rip = rip;
    regs->rsp = rsp;
    regs->rflags = 2;
    v->run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
    if (ioctl(v->fd, KVM_RUN, 0) || v->run->exit_reason != KVM_EXIT_IO)
        return -1;
    return v->run->io.port;
}

/* `count` times the gate's list of one invlpg: ring 0, and a port write that ends it. */
long lists(const struct vcpu *v, long count)
{
    uint64_t *work = (uint64_t *)(v->part + VCPU_WORK);
    v->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
    for (long i = 0; i < count; i++) {
        work[0] = SHIM_VA + GATE_OP_INVLPG;
        work[1] = 0;
        work[2] = SHIM_VA + GATE_STUBS + STUB_DONE * STUB_SIZE;
        if (enter(v, work[0], v->part_va + VCPU_WORK + 8) != STUB_DONE)
            return -1;
    }
    return count;
}

/* Run the guest from `rip` with %rsi, answering xen_version, until it makes another hypercall. */
long hypercalls(const struct vcpu *v, uint64_t rip, uint64_t rsi)
{
    uint64_t *frame = (uint64_t *)(v->part + VCPU_WORK);
    const uint64_t *trap = (uint64_t *)(v->part + VCPU_TRAP_STACK_END) - 5;
    struct kvm_regs *regs = &v->run->s.regs.regs;
    v->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
    regs->rsi = rsi;
    frame[0] = rip;
    frame[1] = FLAT_RING3_CS64;
    frame[2] = EFL_IF | EFL_FIXED;
    frame[3] = 0;
    frame[4] = FLAT_RING3_SS;
    for (long exits = 1;; exits++) {
        if (enter(v, SHIM_VA + GATE_IRET, v->part_va + VCPU_WORK) != 3)
            return -1;
        if (trap[0] != v->part_va + VCPU_SYSCALL_PAGE + SYSCALL_ENTRY + 1)
            return -1;
        if (regs->rax != HYPERVISOR_xen_version)
            return exits;
        regs->rax = VERSION;
        frame[0] = regs->rcx;
        frame[2] = regs->r11;
        frame[3] = trap[3];
    }
}
