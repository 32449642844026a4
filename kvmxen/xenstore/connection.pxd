from kvmxen.xenstore.wire cimport Parser


cdef class Connection:
    cdef object _state
    cdef object _lock
    cdef readonly object session
    cdef public object wake
    cdef object _event_taker
    cdef readonly object domain
    cdef public object renewed
    cdef readonly bint released
    cdef bint _feeding
    cdef Parser _parser
    cdef object _queue
    cdef set _events
    cdef Py_ssize_t _replies
    cdef bytes _started
    cdef int _begin(self, domid) except -1
    cdef bytes _answer(self)
    cdef bytes _take(self, Py_ssize_t limit)
    cdef int _push(self, bytes message) except -1
    cdef int _reset(self) except -1
