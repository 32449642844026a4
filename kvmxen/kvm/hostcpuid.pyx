"""The CPUID instruction of the host's own processor."""

cdef extern from "<cpuid.h>" nogil:
    void cpuid_count "__cpuid_count"(unsigned leaf, unsigned index, unsigned a, unsigned b,
                                     unsigned c, unsigned d)


def host_cpuid(unsigned leaf, unsigned index):
    """(eax, ebx, ecx, edx) of `leaf`, sub-leaf `index`, as ring 3 of this host sees them."""
    cdef unsigned a = 0, b = 0, c = 0, d = 0
    cpuid_count(leaf, index, a, b, c, d)
    return a, b, c, d
