/*
 * Instructions of the kernel that end where the lower half of the addresses does: what is done for
 * it, and a hypercall. The return is to an address that is not canonical, which is #GP there.
 */
#include "guest.h"

#define GP TRAP_GENERAL_PROTECTION
#define LAST_PAGE 0x7ffffffff000ul
#define BOUNDARY 0x800000000000ul

enum { L3, L2, L1, CODE, PAGES };
static u8 pages[PAGES][PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

static void map_last_page(void)
{
    const u64 *l4 = (const u64 *)start_info->pt_base;
    for (u32 table = L3; table <= L1; table++) {
        ((u64 *)pages[table])[511] = pte(va_to_mfn(pages[table + 1]), PTE_RW);
        check_equal(make_read_only(pages[table]), 0);
    }
    check_equal(set_entry(entry_ma(&l4[255]), pte(va_to_mfn(pages[L3]), PTE_RW)), 0);
}

static void run(const char *code, u32 bytes)
{
    u64 rax = HYPERVISOR_xen_version, rdi = XENVER_version, rsi = 0;
    memcpy(pages[CODE] + PAGE_SIZE - bytes, code, bytes);
    probe_arm();
    __asm__ volatile(GUARDED("jmp *%[code]")
                     : "+a"(rax), "+D"(rdi), "+S"(rsi)
                     : [code] "r"(LAST_PAGE + PAGE_SIZE - bytes)
                     : "rbx", "rcx", "rdx", "r11", "memory");
    check_equal(probe.vector, GP);
    check_equal(probe.error_code, 0);
    check_equal(probe.rip, BOUNDARY);
}

void guest_main(void)
{
    map_last_page();
    check_equal(set_iopl(1), 0); /* for cli */
    /* The second time without the host, if it gave the first's answer. */
    for (u32 i = 0; i < 2; i++) {
        run("\x0f\x05", 2);               /* syscall */
        run("\xfa", 1);                   /* cli */
        run("\x0f\x0b" "xen\x0f\xa2", 7); /* CPUID */
    }
    print("SUCCESS\n");
}
