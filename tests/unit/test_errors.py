"""Words for the resources that this process or its host has run out of."""

from __future__ import annotations

import errno
import resource
import threading

import pytest

from kvmxen.errors import shortage


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.EMFILE, "", "/dev/kvm"), "ulimit -n"),
        (OSError(errno.ENFILE, ""), "fs.file-max"),
        (OSError(errno.ENOMEM, ""), "ulimit -v"),
        (MemoryError(), "ulimit -v"),
        (BlockingIOError(errno.EAGAIN, "", "passt"), "ulimit -u"),
        (OSError(errno.ENOSPC, ""), "free some space"),
        (OSError(errno.EDQUOT, ""), "free some space"),
        (ImportError("x.so: failed to map segment"), "x.so: failed to map segment"),
    ],
)
def test_what_to_do(error: BaseException, advice: str) -> None:
    assert advice in (shortage(error) or "")


def test_no_thread_left() -> None:
    # A stack larger than any address space: Python's own error, in its own words.
    before = threading.stack_size()
    limit = resource.getrlimit(resource.RLIMIT_AS)
    try:
        threading.stack_size(1 << 45)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 40, limit[1]))
        with pytest.raises(RuntimeError) as raised:
            threading.Thread(target=lambda: None).start()
    finally:
        threading.stack_size(before)
        resource.setrlimit(resource.RLIMIT_AS, limit)
    assert "ulimit -u" in (shortage(raised.value) or "")


@pytest.mark.parametrize(
    "error", [OSError(errno.EINVAL, ""), OSError(), RuntimeError("odd"), ValueError("odd")]
)
def test_other_errors_are_none(error: BaseException) -> None:
    assert shortage(error) is None
