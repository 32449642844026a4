"""The children of a node by name, made so that copying many and then changing a few is cheap.

They lie in buckets by the hash of their names. Copies share buckets. A bucket's edit mark says who
may change it in place; anybody else copies it first (see tree.pyx). So a change in a transaction
to a directory of 100,000 nodes copies the list of buckets and the buckets that it touches.
"""

cdef enum:
    FILL = 256  # average children per bucket; beyond that, buckets are added
    GROWTH = 2  # factor by which their number grows; a power of two


cdef class _Bucket:
    cdef dict children
    cdef object edit

    def __cinit__(self, dict children, edit):
        self.children = children
        self.edit = edit


cdef class Children:
    """Nodes by name, none at first; `born` is each one's place in the order."""

    def __cinit__(self):
        self._buckets = [_Bucket({}, None)]

    cdef object get(self, str name):
        """The child `name`, or None."""
        cdef _Bucket bucket = self._buckets[hash(name) & (len(self._buckets) - 1)]
        return bucket.children.get(name)

    cdef Children copy(self):
        """A copy with the same children, which later changes of either do not affect.

        Their edit marks must differ.
        """
        cdef Children twin = Children.__new__(Children)
        twin._buckets = self._buckets.copy()
        twin._count = self._count
        return twin

    cdef int put(self, str name, object child, object edit) except -1:
        """Set the child `name` to `child`, with the edit mark `edit`."""
        cdef dict children = self._own(name, edit)
        if name not in children:
            self._count += 1
        children[name] = child
        if self._count > FILL * len(self._buckets):
            self._grow(edit)
        return 0

    cdef int remove(self, str name, object edit) except -1:
        """Remove the child `name`, which must exist, with the edit mark `edit`."""
        del self._own(name, edit)[name]
        self._count -= 1
        return 0

    cdef list items(self):
        """All names with their children, in the order of the children's creation."""
        cdef _Bucket bucket = self._buckets[0]
        if len(self._buckets) == 1:
            return list(bucket.children.items())
        children = [item for bucket in self._buckets for item in bucket.children.items()]
        children.sort(key=lambda item: item[1].born)
        return children

    cdef dict _own(self, str name, object edit):
        cdef Py_ssize_t at = hash(name) & (len(self._buckets) - 1)
        cdef _Bucket bucket = self._buckets[at]
        if bucket.edit is not edit:
            bucket = _Bucket(bucket.children.copy(), edit)
            self._buckets[at] = bucket
        return bucket.children

    cdef int _grow(self, object edit) except -1:
        cdef list items = self.items()
        cdef Py_ssize_t mask = GROWTH * len(self._buckets) - 1
        cdef list buckets = [_Bucket({}, edit) for _ in range(mask + 1)]
        for name, child in items:
            (<_Bucket>buckets[hash(name) & mask]).children[name] = child
        self._buckets = buckets
        return 0
