from kvmxen.xenstore.tree cimport Node

cpdef Py_ssize_t node_size(bytes value, Py_ssize_t permissions, Py_ssize_t listing)
cpdef Py_ssize_t node_memory(str path, Node node)
