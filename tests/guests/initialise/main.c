/* A vCPU that starts on an L4 that nobody pinned, with many entries to be checked first. */
#include "guest.h"

#define ENTRIES 250

extern char cpu_entry[], event_entry[], failsafe_entry[], syscall_entry[];

static struct vcpu_guest_context context;
static u64 l4[512] __attribute__((aligned(PAGE_SIZE)));
static u64 l3[512] __attribute__((aligned(PAGE_SIZE)));
static u32 started;

static void run(u32 cpu)
{
    store_release(&started, cpu);
    vcpu_op(VCPUOP_down, cpu, NULL);
}

void guest_main(void)
{
    u64 stack = (u64)stacks[1] + STACK_SIZE, end = now() + PATIENCE;

    memcpy(l4, (void *)start_info->pt_base, PAGE_SIZE);
    for (u32 i = XEN_FIRST_SLOT; i < XEN_FIRST_SLOT + XEN_SLOTS; i++)
        l4[i] = 0;
    for (u32 i = 1; i <= ENTRIES; i++)
        l4[i] = pte(va_to_mfn(l3), PTE_RW & ~PTE_USER);
    context = (struct vcpu_guest_context){
        .flags = VGCF_in_kernel,
        .user_regs = {.rip = (u64)cpu_entry, .rsp = stack, .rdi = 1, .rsi = (u64)run,
                      .rflags = EFL_IF | EFL_FIXED, .cs = FLAT_KERNEL_CS, .ss = FLAT_KERNEL_SS},
        .kernel_ss = FLAT_KERNEL_SS,
        .kernel_sp = stack,
        .ctrlreg[3] = va_to_mfn(l4) << PAGE_SHIFT,
        .event_callback_eip = (u64)event_entry,
        .failsafe_callback_eip = (u64)failsafe_entry,
        .syscall_callback_eip = (u64)syscall_entry,
    };
    shared_info->vcpu_info[1].evtchn_upcall_mask = 1;
    check_equal(vcpu_op(VCPUOP_initialise, 1, &context), 0);
    for (u32 i = 1; i <= ENTRIES; i++)
        check(READ_ONCE(l4[i]) & PTE_USER);
    check_equal(vcpu_op(VCPUOP_initialise, 1, &context), -EEXIST);
    check_equal(vcpu_op(VCPUOP_up, 1, NULL), 0);
    while (load_acquire(&started) != 1)
        check(now() < end);
    print("SUCCESS\n");
}
