"""The children of a node by name: to copy many, and then change a few, costs little.

They lie in buckets by the hash of their names. A copy shares the buckets; each has the edit
mark of who may change it in place, and is itself copied by anybody else (see tree.pyx). So
what a transaction changes in a directory of 100,000 nodes costs it the list of buckets, and
those that it touches.
"""

cdef enum:
    FILL = 256  # children to a bucket, on average, beyond which there are more buckets
    GROWTH = 2  # times as many; a power of two


cdef class _Bucket:
    cdef dict children
    cdef object edit

    def __cinit__(self, dict children, edit):
        self.children = children
        self.edit = edit


cdef class Children:
    """Nodes by name, none at first; each has its place in the order, `born`."""

    def __cinit__(self):
        self._buckets = [_Bucket({}, None)]

    cdef object get(self, str name):
        """The child `name`, None where there is none."""
        cdef _Bucket bucket = self._buckets[hash(name) & (len(self._buckets) - 1)]
        return bucket.children.get(name)

    cdef Children copy(self):
        """Another with the same children, which later changes of either do not reach.

        Their edit marks have to differ.
        """
        cdef Children twin = Children.__new__(Children)
        twin._buckets = self._buckets.copy()
        twin._count = self._count
        return twin

    cdef int put(self, str name, object child, object edit) except -1:
        """Have `child` be the child `name`, as `edit`."""
        cdef dict children = self._own(name, edit)
        if name not in children:
            self._count += 1
        children[name] = child
        if self._count > FILL * len(self._buckets):
            self._grow(edit)
        return 0

    cdef int remove(self, str name, object edit) except -1:
        """Take the child `name`, which must be, away, as `edit`."""
        del self._own(name, edit)[name]
        self._count -= 1
        return 0

    cdef list items(self):
        """All names with their children, in the order of these."""
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
