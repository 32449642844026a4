from kvmxen.xenstore.children cimport Children


cdef class Node:
    cdef readonly bytes value
    cdef readonly tuple permissions
    cdef readonly unsigned long long generation
    cdef readonly unsigned long long altered
    cdef readonly unsigned long long born
    cdef Children children
    cdef readonly Py_ssize_t listing_size
    cdef object edit
    cdef bytes _listing
    cdef Node copy(self, object edit)
    cdef int adopt(self, str name, Node child, unsigned long long generation) except -1


cdef class Tree:
    cdef object _edit
    cdef Node _top
    cpdef Node get(self, str path)
    cpdef Node put(self, str path, bytes value, tuple permissions, unsigned long long generation)
    cdef Node _own(self, list path)
    cdef Node _own_child(self, Node parent, str name)
