"""A guest that changes its memory while the host reads: a process of its own, outside our GIL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.kvm.memory import GuestMemory

# The end of its standard input ends it. It reports its start.
_PROGRAM = """
import mmap, select, sys
fd, gpa, *values = sys.argv[1:]
at, values = int(gpa), [bytes.fromhex(value) for value in values]
page = mmap.mmap(int(fd), {page}, offset=at & -{page})
at %= {page}
print(flush=True)
while not select.select([0], [], [], 0)[0]:
    for _ in range(1000):
        for value in values:
            page[at:at + len(value)] = value
"""


@contextmanager
def mutating(memory: GuestMemory, gpa: int, values: Sequence[bytes]) -> Iterator[None]:
    """Store `values` at `gpa`, within one page, one after another, again and again."""
    program = _PROGRAM.format(page=PAGE_SIZE)
    arguments = [str(memory.fd), str(gpa), *(value.hex() for value in values)]
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        pass_fds=[memory.fd],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        try:
            yield
        finally:
            process.stdin.close()
            assert process.wait() == 0
