"""Measures a disk's requests over its ring, from a frontend in this process without a VM, against
fio with io_uring on the same file; both bypass the page cache.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import threading
import time
from array import array
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import plot
from benchmarks.page import table
from benchmarks.sample import Pair, Sample, in_turn
from kvmxen.backends.block.image import RawImage
from kvmxen.backends.block.queue import BlockQueue
from kvmxen.config import DiskSpec
from kvmxen.errors import KvmxenError
from kvmxen.kvm.memory import Window
from kvmxen.ring.doorbell import Doorbell
from kvmxen.ring.shared_ring import BackRing
from kvmxen.xen.abi.blkif import NATIVE, PROTOCOLS, SEGMENT
from tests.unit.backends.fake_domain import FakeDomain

SIZE = 256 << 20
# Bypasses the page cache.
_CACHE = "none"
_PAGES = 8
_PAIRS, _SPARE = 7, 14
_PAGE = 4096
PLOT = Path("docs/block.svg")
# The counts for each request.
COUNTS = ("kicks", "notifications", "syscalls", "bytes_copied")


@dataclass(frozen=True)
class Job:
    """Requests of `pages` 4-KiB pages, `depth` at a time, `total` in a measurement."""

    name: str
    write: bool
    sequential: bool
    pages: int
    depth: int
    total: int


JOBS = (
    *(
        Job(f"4 KiB random {kind}, depth {depth}", kind == "write", False, 1, depth, total)
        for kind in ("read", "write")
        for depth, total in ((1, 6000), (32, 30_000), (128, 40_000))
    ),
    Job("128 KiB sequential read, depth 8", False, True, 32, 8, 4000),
    Job("128 KiB sequential write, depth 8", True, True, 32, 8, 8000),
)


@dataclass(frozen=True)
class Result:
    """A job's seconds over the ring and with fio, and the ring's counts for each request."""

    job: Job
    times: Pair
    kicks: float
    notifications: float
    syscalls: float
    copied: float

    def rates(self, seconds: Sample) -> Sample:
        """Requests per second."""
        return Sample.of([self.job.total / value for value in seconds.values])

    def row(self) -> list[str]:
        """A row of the page's table; the ratio compares requests per second, more is better."""
        rates = self.rates(self.times.first)
        ratio = Sample.of([1 / value for value in self.times.ratio.values])
        return [
            self.job.name,
            rates.show(",.0f"),
            ratio.show(".2f"),
            f"{self.kicks:.3f}",
            f"{self.notifications:.3f}",
            f"{self.syscalls:.2f}",
            f"{self.copied:.0f}",
        ]


class _Ring(ctypes.Structure):
    """block.c's struct ring."""

    _fields_ = (
        ("shared", ctypes.c_void_p),
        ("entries", ctypes.c_uint32),
        ("kick", ctypes.c_int),
        ("notified", ctypes.c_int),
        ("operation", ctypes.c_uint32),
        ("segments", ctypes.c_uint32),
        ("places", ctypes.c_uint64),
        ("sequential", ctypes.c_uint32),
        ("refs", ctypes.c_void_p),
        ("pages", ctypes.c_void_p),
    )


class Bench:
    """The frontend, built in `folder`, and the file that both sides use."""

    def __init__(self, folder: Path) -> None:
        library = folder / "block.so"
        source = Path(__file__).parent / "block.c"
        flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
        subprocess.run(["gcc", *flags, "-o", str(library), str(source)], check=True)
        self._library = ctypes.CDLL(str(library))
        self._library.drive.restype = ctypes.c_long
        self.file = folder / "disk"
        with self.file.open("wb") as file:
            for _ in range(SIZE >> 20):
                file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())

    def ring(self, job: Job, counts: dict[str, int]) -> float:
        """The seconds that `job` takes over a ring; adds its counts to `counts`."""
        domain = FakeDomain(64 << 20)
        frames = [domain.page() for _ in range(_PAGES)]
        window = Window(domain.memory, frames)
        words = window.view().cast("I")
        words[1] = words[3] = 1
        refs = array("I", [domain.grant(domain.page()) for _ in range(job.pages * job.depth)])
        pages = array("I", [self._segments(domain, job, refs, n) for n in range(job.depth)])
        layouts = PROTOCOLS[NATIVE]
        ring = BackRing(window, layouts["request"].sizeof(), layouts["response"].sizeof())
        image = RawImage(DiskSpec.parse(f"{self.file},cache={_CACHE}"))
        bell = Doorbell()
        notified = os.eventfd(0, os.EFD_CLOEXEC)
        engine = image.engine(bell.fd, ring.size)
        queue = BlockQueue(
            ring,
            domain.grants,
            engine,
            lambda: os.eventfd_write(notified, 1),
            domain.failures.append,
            sectors=image.sectors,
            sector_size=512,
            readonly=False,
            discard=True,
            flush=True,
            persistent=False,
        )
        view = window.view()
        driven = _Ring(
            ctypes.addressof(ctypes.c_char.from_buffer(view)),
            ring.size,
            bell.fd,
            notified,
            job.write,
            job.pages,
            SIZE // _PAGE // job.pages,
            job.sequential,
            refs.buffer_info()[0],
            pages.buffer_info()[0],
        )
        kicks, waits = ctypes.c_uint64(), ctypes.c_uint64()
        server = threading.Thread(target=queue.serve)
        server.start()
        begin = time.perf_counter()
        failed = self._library.drive(
            ctypes.byref(driven), job.depth, job.total, ctypes.byref(kicks), ctypes.byref(waits)
        )
        seconds = time.perf_counter() - begin
        queue.stop()
        bell.ring()
        server.join()
        figures = queue.figures()
        queue.close()
        engine.close()
        image.close()
        bell.close()
        os.close(notified)
        if failed or domain.failures:
            raise KvmxenError(f"{failed} requests failed")
        counts["kicks"] += kicks.value
        counts["notifications"] += figures["notifications"]
        counts["syscalls"] += figures["syscalls"]
        counts["bytes_copied"] += figures["bytes_copied"]
        return seconds

    @staticmethod
    def _segments(domain: FakeDomain, job: Job, refs: array[int], slot: int) -> int:
        """The grant of the page that holds the segments of the requests of `slot`."""
        page = domain.page()
        mine = refs[slot * job.pages : (slot + 1) * job.pages]
        parts = [SEGMENT.build({"gref": ref, "first_sect": 0, "last_sect": 7}) for ref in mine]
        domain.memory.write(page, b"".join(parts))
        return domain.grant(page)

    def fio(self, job: Job) -> float:
        """The seconds that fio takes for as many requests."""
        command = fio_command(job, str(self.file))
        return fio_seconds(
            job, subprocess.run(command, capture_output=True, text=True, check=True).stdout
        )


def fio_command(job: Job, file: str) -> list[str]:
    """The fio command for `job` on `file`."""
    kind = ("" if job.sequential else "rand") + ("write" if job.write else "read")
    return [
        "fio",
        "--name=kvmxen",
        f"--filename={file}",
        f"--size={SIZE}",
        "--ioengine=io_uring",
        "--direct=1",
        f"--rw={kind}",
        f"--bs={job.pages * _PAGE}",
        f"--iodepth={job.depth}",
        f"--number_ios={job.total}",
        f"--io_size={job.total * job.pages * _PAGE}",
        "--norandommap",
        "--output-format=terse",
        "--terse-version=3",
    ]


def fio_seconds(job: Job, output: str) -> float:
    """The seconds of `job` in fio's output."""
    rate = output.split(";")[48 if job.write else 7]
    return job.total / float(rate)


def rows(results: list[Result]) -> str:
    """The table of the page."""
    head = ["requests", "a second", "of fio", "kicks", "notifications", "system calls", "copied"]
    return table(head, [result.row() for result in results])


def measure() -> str:
    """Measure all jobs; raises KvmxenError if there is no fio."""
    if not shutil.which("fio"):
        raise KvmxenError("this benchmark needs fio: install Debian's package fio")
    results = []
    with TemporaryDirectory(prefix="kvmxen-bench-", dir=".cache") as folder:
        bench = Bench(Path(folder))
        for job in JOBS:
            counts = dict.fromkeys(COUNTS, 0)
            pair = in_turn(
                lambda job=job, counts=counts: bench.ring(job, counts),  # type: ignore[misc]
                lambda job=job: bench.fio(job),  # type: ignore[misc]
                _PAIRS,
                _SPARE,
            )
            requests = job.total * (_PAIRS + _SPARE + 1)
            results.append(Result(job, pair, *(counts[name] / requests for name in COUNTS)))
    draw(results)
    return rows(results)


def draw(results: list[Result], path: Path = PLOT) -> None:
    """Draw the rates of both sides, with their spread, into the SVG file `path`."""
    with plot.figure(path, 2, (7.5, 2.8)) as panels:
        for axes, random in zip(panels, (True, False), strict=True):
            shown = [result for result in results if result.job.sequential != random]
            series = {
                "kvmxen": [result.rates(result.times.first) for result in shown],
                "fio": [result.rates(result.times.second) for result in shown],
            }
            words = [re.sub(".* (read|write)", r"\1", result.job.name) for result in shown]
            plot.bars(axes, [name.replace(", ", "\n") for name in words], series)
            axes.set_title("4 KiB, random" if random else "128 KiB, sequential", fontsize=9)
        panels[0].set_ylabel("requests a second")
        panels[0].legend(fontsize=7, frameon=False)
