"""The CPUID instruction of the host's own processor, and what it should have told."""

cdef extern from *:
    """
    #include <asm/prctl.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    /* User code on x86-64 leaves GS to whoever wants it: base and selector are 0. */
    static int null_clears_base(void)
    {
        unsigned long base = 1;
        if (syscall(SYS_arch_prctl, ARCH_SET_GS, 1ul))
            return 0;
        __asm__ volatile("mov %0, %%gs" : : "r"(0));
        syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
        syscall(SYS_arch_prctl, ARCH_SET_GS, 0ul);
        return base == 0;
    }
    """
    int null_clears_base() noexcept nogil

cdef extern from "<cpuid.h>" nogil:
    void cpuid_count "__cpuid_count"(unsigned leaf, unsigned index, unsigned a, unsigned b,
                                     unsigned c, unsigned d)


def host_cpuid(unsigned leaf, unsigned index):
    """(eax, ebx, ecx, edx) of `leaf`, sub-leaf `index`, as ring 3 of this host sees them."""
    cdef unsigned a = 0, b = 0, c = 0, d = 0
    cpuid_count(leaf, index, a, b, c, d)
    return a, b, c, d


def null_selector_clears_base():
    """Whether loading a null selector clears the segment's base, for which leaf 0x80000021 has a
    bit that a hypervisor below may have left out (AMD64 Architecture Programmer's Manual 3)."""
    return null_clears_base() != 0
