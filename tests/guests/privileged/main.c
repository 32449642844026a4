/* Privileged instructions in ring 3 that Xen emulates for a PV kernel, and those it refuses. */
#include "guest.h"

#define GP TRAP_GENERAL_PROTECTION
#define MSR_NONE 0xdeadbeef
#define CR0_PE_PG 0x80000001ul
#define CPUID_XSAVE (1u << 26)  /* leaf 1, ecx */
#define CPUID_OSXSAVE (1u << 27)
#define VECTOR_STATES 0xe7u /* of XCR0: x87, SSE, AVX, AVX-512's three */
#define AMX_STATES 0x60000u

struct leaf {
    u32 eax, ebx, ecx, edx;
};

static struct leaf cpuid(u32 leaf, u32 subleaf)
{
    struct leaf l;
    __asm__ volatile(XEN_EMULATE_PREFIX "cpuid"
                     : "=a"(l.eax), "=b"(l.ebx), "=c"(l.ecx), "=d"(l.edx)
                     : "0"(leaf), "2"(subleaf));
    return l;
}

static u64 rdmsr(u32 msr)
{
    u32 low = 0, high = 0;
    probe_arm();
    __asm__ volatile(GUARDED("rdmsr") : "+a"(low), "+d"(high) : "c"(msr) : "memory");
    return (u64)high << 32 | low;
}

static void wrmsr(u32 msr, u64 value)
{
    probe_arm();
    __asm__ volatile(GUARDED("wrmsr") : : "a"((u32)value), "d"(value >> 32), "c"(msr) : "memory");
}

static void xsetbv(u32 xcr0)
{
    probe_arm();
    __asm__ volatile(GUARDED("xsetbv") : : "a"(xcr0), "d"(0), "c"(0) : "memory");
}

static void check_allowed(const char *what)
{
    if (probe.vector != NO_TRAP)
        fail("%s traps: vector %lu, error %#lx", what, probe.vector, probe.error_code);
}

static void check_refused(const char *what)
{
    if (probe.vector != GP || probe.error_code)
        fail("%s: vector %lu, error %#lx, not #GP(0)", what, probe.vector, probe.error_code);
}

static void identification(void)
{
    struct leaf base = cpuid(0x40000000, 0);
    check(base.eax >= 0x40000002);
    check_equal(base.ebx, 0x566e6558); /* "XenVMMXenVMM" */
    check_equal(base.ecx, 0x65584d4d);
    check_equal(base.edx, 0x4d4d566e);
    struct leaf version = cpuid(0x40000001, 0);
    check_equal(version.eax, xen_version(XENVER_version, NULL));
    check(cpuid(0, 0).eax >= 1);
    check(cpuid(1, 0).edx & 1); /* an FPU */
}

/* All vector registers that XGETBV has, CPUID tells of, and the kernel may have saved: none is left
 * out of a context switch. XCR0 may have more, of features that no PV guest is shown.
 */
static void extended_state(void)
{
    u64 cr4;
    if (!(cpuid(1, 0).ecx & CPUID_XSAVE)) {
        print("no XSAVE: XCR0 not looked at\n");
        return;
    }
    __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
    probe_arm();
    __asm__ volatile(GUARDED("mov %0, %%cr4") : : "r"(cr4 | CR4_OSXSAVE) : "memory");
    check_allowed("mov to cr4");
    check_equal(cpuid(1, 0).ecx & CPUID_OSXSAVE, CPUID_OSXSAVE);
    u32 low = 0, high = 0;
    probe_arm();
    __asm__ volatile(GUARDED("xgetbv") : "+a"(low), "+d"(high) : "c"(0) : "memory");
    check_allowed("xgetbv");
    struct leaf state = cpuid(0xd, 0);
    check_equal(low & 3, 3);
    check_equal(low & VECTOR_STATES, state.eax);
    check_equal(state.edx, 0);
    xsetbv(state.eax);
    check_allowed("xsetbv of what CPUID has");
    xsetbv(state.eax | AMX_STATES);
    check_refused("xsetbv of AMX");
    xsetbv(state.eax & ~1u);
    check_refused("xsetbv without x87");
}

static void msrs(void)
{
    u64 efer = rdmsr(MSR_EFER);
    check_allowed("rdmsr EFER");
    check_equal(efer & 0x500, 0x500); /* LME, LMA */
    wrmsr(MSR_FS_BASE, 0x12345000);
    check_allowed("wrmsr FS_BASE");
    check_equal(rdmsr(MSR_FS_BASE), 0x12345000);
    check_equal(set_segment_base(SEGBASE_FS, 0x6789a000), 0);
    check_equal(rdmsr(MSR_FS_BASE), 0x6789a000);
    wrmsr(MSR_FS_BASE, 0);
    rdmsr(MSR_NONE);
    check_refused("rdmsr of no MSR");
    wrmsr(MSR_NONE, 0);
    check_refused("wrmsr of no MSR");
}

static void ports(void)
{
    u8 byte = 0;
    check_equal(set_iopl(1), 0);
    probe_arm();
    __asm__ volatile(GUARDED("inb %1, %0") : "+a"(byte) : "Nd"((u16)0x2f8) : "memory");
    check_allowed("in");
    check_equal(byte, 0xff);
    probe_arm();
    __asm__ volatile(GUARDED("outb %0, %1") : : "a"(byte), "Nd"((u16)0x2f8) : "memory");
    check_allowed("out");
}

static void interrupt_flag(void)
{
    u64 flags;
    probe_arm();
    __asm__ volatile(GUARDED("cli") ::: "memory");
    check_allowed("cli");
    check_equal(this_vcpu()->evtchn_upcall_mask, 0); /* cli does not mask upcalls */
    probe_arm();
    __asm__ volatile(GUARDED("sti") ::: "memory");
    check_allowed("sti");
    __asm__ volatile("pushf; pop %0" : "=r"(flags));
    check_equal(flags & 0x200, 0x200);
}

static void control_registers(void)
{
    u64 cr0 = 0, cr3 = 0, cr4 = 0;
    probe_arm();
    __asm__ volatile(GUARDED("mov %%cr0, %0") : "+r"(cr0) : : "memory");
    check_allowed("mov from cr0");
    check_equal(cr0 & CR0_PE_PG, CR0_PE_PG);
    probe_arm();
    __asm__ volatile(GUARDED("mov %0, %%cr0") : : "r"(cr0 | CR0_TS) : "memory");
    check_allowed("mov to cr0");
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    check_equal(cr0 & CR0_TS, CR0_TS);
    probe_arm();
    __asm__ volatile(GUARDED("clts") ::: "memory");
    check_allowed("clts");
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    check_equal(cr0 & CR0_TS, 0);
    probe_arm();
    __asm__ volatile(GUARDED("mov %0, %%cr0") : : "r"(cr0 & ~CR0_PE_PG) : "memory");
    check_refused("paging off by cr0");

    probe_arm();
    __asm__ volatile(GUARDED("mov %%cr3, %0") : "+r"(cr3) : : "memory");
    check_allowed("mov from cr3");
    check_equal(cr3 >> PAGE_SHIFT, va_to_mfn((void *)start_info->pt_base));
    probe_arm();
    __asm__ volatile(GUARDED("mov %0, %%cr3") : : "r"(cr3) : "memory");
    check_allowed("mov to cr3");
    probe_arm();
    __asm__ volatile(GUARDED("mov %%cr4, %0") : "+r"(cr4) : : "memory");
    check_allowed("mov from cr4");
    check_equal(cr4 & CR4_PAE, CR4_PAE);
}

static void refused(void)
{
    static u8 descriptor[10];
    probe_arm();
    __asm__ volatile(GUARDED("hlt") ::: "memory");
    check_refused("hlt");
    probe_arm();
    __asm__ volatile(GUARDED("lgdt %0") : : "m"(descriptor) : "memory");
    check_refused("lgdt");
    probe_arm();
    __asm__ volatile(GUARDED("lidt %0") : : "m"(descriptor) : "memory");
    check_refused("lidt");
    probe_arm();
    __asm__ volatile(GUARDED("invlpg %0") : : "m"(descriptor) : "memory");
    check_refused("invlpg");
}

void guest_main(void)
{
    identification();
    extended_state();
    msrs();
    ports();
    interrupt_flag();
    control_registers();
    refused();
    print("SUCCESS\n");
}
