/* Further vCPUs, and the lock that they share the console with. */
#include "guest.h"

extern char cpu_entry[], event_entry[], failsafe_entry[], syscall_entry[];

u32 cpu_count(void)
{
    u32 count = 0;
    while (count < MAX_CPUS && vcpu_op(VCPUOP_is_up, count, NULL) >= 0)
        count++;
    return count;
}

long cpu_start(u32 cpu, void (*function)(u32 cpu))
{
    static struct vcpu_guest_context context;
    struct trap_info table[257];
    memset(&context, 0, sizeof context);
    trap_table(table);
    memcpy(context.trap_ctxt, table, sizeof context.trap_ctxt);
    u64 stack = (u64)stacks[cpu] + STACK_SIZE;
    context.flags = VGCF_in_kernel;
    context.user_regs = (struct cpu_user_regs){
        .rip = (u64)cpu_entry,
        .rsp = stack,
        .rdi = cpu,
        .rsi = (u64)function,
        .rflags = EFL_IF | EFL_FIXED,
        .cs = FLAT_KERNEL_CS,
        .ss = FLAT_KERNEL_SS,
    };
    context.kernel_ss = FLAT_KERNEL_SS;
    context.kernel_sp = stack;
    context.ctrlreg[3] = va_to_mfn((void *)start_info->pt_base) << PAGE_SHIFT;
    context.event_callback_eip = (u64)event_entry;
    context.failsafe_callback_eip = (u64)failsafe_entry;
    context.syscall_callback_eip = (u64)syscall_entry;
    shared_info->vcpu_info[cpu].evtchn_upcall_mask = 1;
    long error = vcpu_op(VCPUOP_initialise, cpu, &context);
    return error ? error : vcpu_op(VCPUOP_up, cpu, NULL);
}

void spin_lock(u32 *lock)
{
    while (__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE))
        cpu_relax();
}

void spin_unlock(u32 *lock)
{
    store_release(lock, 0);
}
