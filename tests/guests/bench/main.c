/* Loops of what a PV guest does most; prints "BENCH name ns_per_op". rounds= sets the count. */
#include "guest.h"

extern const char user_start[], user_end[];

static char page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
static evtchn_port_t port;
static volatile u32 upcalls;

static void null_hypercall(void)
{
    xen_version(XENVER_version, NULL);
}

static void port_io(void)
{
    u8 byte;
    __asm__ volatile("inb %1, %0" : "=a"(byte) : "Nd"((u16)0x2f8));
}

static void forced_cpuid(void)
{
    u32 a = 0x40000000, b, c = 0, d;
    __asm__ volatile(XEN_EMULATE_PREFIX "cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
}

static void page_fault(void)
{
    probe_read((void *)0x10000000000ul);
}

static void breakpoint(void)
{
    probe_arm();
    __asm__ volatile(GUARDED("int3") ::: "memory");
}

static void va_mapping(void)
{
    make_writable(page);
}

static void count(evtchn_port_t from)
{
    (void)from;
    upcalls++;
}

static void event_to_self(void)
{
    u32 before = upcalls;
    evtchn_send(port);
    while (upcalls == before)
        cpu_relax();
}

static bool on_syscall(struct regs *regs)
{
    return regs->rax;
}

static void report(const char *name, u64 start, u64 rounds)
{
    print("BENCH %s %lu\n", name, (now() - start) / rounds);
}

static void run(const char *name, void (*op)(void), u64 rounds)
{
    u64 start = now();
    for (u64 i = 0; i < rounds; i++)
        op();
    report(name, start, rounds);
}

void guest_main(void)
{
    u64 rounds = option("rounds", 1000);
    check(rounds > 0);
    check_equal(set_iopl(1), 0);
    long bound = evtchn_bind_ipi(0);
    check(bound > 0);
    port = (evtchn_port_t)bound;
    event_handle(port, count);
    user_init(user_start, (size_t)(user_end - user_start), on_syscall);

    print("BEGIN\n");
    run("null_hypercall", null_hypercall, rounds);
    run("port_io", port_io, rounds);
    run("forced_cpuid", forced_cpuid, rounds);
    run("page_fault", page_fault, rounds);
    run("breakpoint", breakpoint, rounds);
    run("update_va_mapping", va_mapping, rounds);
    run("event_to_self", event_to_self, rounds);
    u64 start = now();
    user_run(rounds);
    report("user_syscall", start, rounds);
    print("SUCCESS\n");
}
