"""Paths: which are well-formed, what they are relative to, and who their ancestors are.

A path in canonical form starts with "/", or with "@" for the nodes that represent special watches;
it does not end in "/", except the root (docs/misc/xenstore.txt).
"""

from cpython.unicode cimport PyUnicode_READ_CHAR

import errno
import re

from kvmxen.xen.abi.xs_wire import ABS_PATH_MAX, REL_PATH_MAX
from kvmxen.xenstore.errors import XenstoreError

cdef object _DOMAIN_PREFIX = re.compile(r"/local/domain/[0-9]{1,5}/").match
cdef int _ABS_PATH_MAX = ABS_PATH_MAX


def home(domid):
    """The path that a domain's relative paths start from."""
    return f"/local/domain/{domid}"


def canonical(str path, domid, *, bint special=False, int limit=REL_PATH_MAX):
    """The canonical form of `path` as domain `domid` gives it; `special` allows "@...".

    Raises XenstoreError(EINVAL). A path may have `limit` bytes, not counting a leading
    "/local/domain/<domid>/" (canonicalize() in tools/xenstored/core.c).
    """
    if not _well_formed(path, special):
        raise XenstoreError(errno.EINVAL)
    cdef Py_UCS4 first = PyUnicode_READ_CHAR(path, 0)
    if first != u"/" and first != u"@":
        path = f"/local/domain/{domid}/{path}"
    cdef Py_ssize_t length = len(path)
    if length > limit:
        prefix = _DOMAIN_PREFIX(path)
        if prefix:
            length -= prefix.end()
        if length > limit:
            raise XenstoreError(errno.EINVAL)
    if len(path) > _ABS_PATH_MAX:
        raise XenstoreError(errno.EINVAL)
    return path


cdef bint _well_formed(str path, bint special) noexcept:
    """Whether it is the root, or names of A-Z, a-z, 0-9, "_", "@" and "-" between single
    slashes."""
    cdef Py_ssize_t length = len(path), i
    cdef Py_UCS4 character, before = 0
    if length == 0:
        return False
    for i in range(length):
        character = PyUnicode_READ_CHAR(path, i)
        if character == u"/":
            if before == u"/":
                return False
        elif not (u"a" <= character <= u"z" or u"A" <= character <= u"Z"
                  or u"-" == character or u"0" <= character <= u"9"
                  or u"_" == character or u"@" == character):
            return False
        before = character
    if before == u"/":
        return length == 1
    return special or PyUnicode_READ_CHAR(path, 0) != u"@"


cpdef str parent(str path):
    """The path above `path`; the root is its own parent and, for permissions, that of "@..."."""
    cdef Py_ssize_t cut = path.rfind("/")
    return path[:cut] if cut > 0 else "/"


cpdef list names(str path):
    """The names from the top down: the root's is empty; special nodes are siblings of the root."""
    return [""] if path == "/" else path.split("/")


cpdef list ancestry(str path):
    """`path`, its parent, and so on up to the root or to its special node."""
    cdef list found = [path]
    cdef str above = path
    cdef Py_ssize_t cut = path.rfind("/")
    while cut > 0:
        above = above[:cut]
        found.append(above)
        cut = above.rfind("/")
    if cut == 0 and path != "/":
        found.append("/")
    return found
