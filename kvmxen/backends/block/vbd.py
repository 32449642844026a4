"""A block device on the bus: its nodes, its queues and their threads."""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

from kvmxen.backends.block.image import Image, open_image
from kvmxen.backends.block.queue import MAX_INDIRECT_SEGMENTS, BlockQueue
from kvmxen.backends.frontend import (
    EventChannel,
    FrontendError,
    FrontendNodes,
    RingPages,
    start_thread,
)
from kvmxen.backends.peer import Peer
from kvmxen.backends.xenbus import Device, Nodes
from kvmxen.config.disk import DiskSpec
from kvmxen.errors import KvmxenError
from kvmxen.ring.shared_ring import BackRing
from kvmxen.xen.abi.blkif import NATIVE, PROTOCOLS, VDISK_CDROM, VDISK_READONLY

MAX_RING_ORDER = 4
MAX_QUEUES = 8
# Before a frontend is removed, in seconds: how long it must have made no request, the longest wait
# for that, and the pause between two checks.
_QUIET = 0.25
_SETTLING = 5.0
_PAUSE = 0.01
# How long operations in flight may take when the device ends, in seconds.
_FINISHING = 60.0
_MAX_REF = _MAX_PORT = (1 << 32) - 1


class Vbd(Device):
    """The disk that `spec`, which has a target, describes. Raises KvmxenError if it cannot be
    used."""

    kind = "vbd"

    def __init__(self, peer: Peer, spec: DiskSpec, image: Image | None = None) -> None:
        self.index = spec.number
        self._peer = peer
        self._spec = spec
        self._image = image or open_image(spec, MAX_QUEUES)
        self.changes = spec.format == "raw"
        self._served: list[_Served] = []
        self._past: Counter[str] = Counter()

    def describe(self) -> tuple[Nodes, Nodes]:
        """The nodes as libxl writes them (libxl_disk.c)."""
        spec = self._spec
        device_type = "cdrom" if spec.cdrom else "disk"
        ours = {
            "params": spec.path.absolute(),
            "type": "file" if spec.format == "raw" else "qdisk",
            "dev": spec.target,
            "mode": "r" if spec.readonly else "w",
            "device-type": device_type,
            "removable": int(spec.cdrom),
            "bootable": 1,
            "discard-enable": int(spec.discard),
        }
        return ours, {"virtual-device": self.index, "device-type": device_type}

    def offer(self) -> Nodes:
        """The nodes that announce the backend's features."""
        nodes: dict[str, object] = {
            "feature-flush-cache": 1,
            "feature-barrier": 1,
            "feature-persistent": int(self._spec.persistent),
            "feature-max-indirect-segments": MAX_INDIRECT_SEGMENTS,
            "multi-queue-max-queues": MAX_QUEUES,
            "max-ring-page-order": MAX_RING_ORDER,
            "max-ring-pages": 1 << MAX_RING_ORDER,
            "feature-discard": int(self._image.discards),
            **self._size(),
        }
        if self._image.discards:
            nodes |= {
                "discard-granularity": self._image.sector_size,
                "discard-alignment": 0,
                "discard-secure": 0,
            }
        return nodes

    def _size(self) -> dict[str, object]:
        info = (VDISK_CDROM if self._spec.cdrom else 0) | (
            VDISK_READONLY if self._spec.readonly else 0
        )
        return {
            "sectors": self._image.sectors,
            "sector-size": self._image.sector_size,
            "physical-sector-size": self._image.sector_size,
            "info": info,
        }

    def connect(self, frontend: FrontendNodes, broken: Callable[[FrontendError], None]) -> Nodes:
        """Serve each ring that the frontend names in a thread of its own."""
        protocol = frontend.text("protocol") or NATIVE
        layouts = PROTOCOLS.get(protocol)
        if layouts is None:
            raise FrontendError(errno.EINVAL, f"no protocol is called {protocol[:40]}")
        order = frontend.number("ring-page-order", MAX_RING_ORDER, 0)
        pages = frontend.number("num-ring-pages", 1 << MAX_RING_ORDER, 1 << order)
        if pages not in (1 << n for n in range(MAX_RING_ORDER + 1)):
            raise FrontendError(errno.EINVAL, "num-ring-pages is no power of two")
        count = frontend.number("multi-queue-num-queues", MAX_QUEUES, 1)
        if count < 1:
            raise FrontendError(errno.EINVAL, "multi-queue-num-queues is 0")
        # Linux's frontend always announces the feature, and uses it if the backend does.
        persistent = frontend.flag("feature-persistent") and self._spec.persistent
        with ExitStack() as undo:
            served = []
            for n in range(count):
                prefix = f"queue-{n}/" if count > 1 else ""
                keys = [f"ring-ref{page}" for page in range(pages)] if pages > 1 else ["ring-ref"]
                refs = [frontend.number(prefix + key, _MAX_REF) for key in keys]
                port = frontend.number(f"{prefix}event-channel", _MAX_PORT)
                served.append(_Served(self._peer, refs, port))
                undo.callback(served[-1].close)
                served[-1].open(self._image, self._spec, layouts, persistent, broken)
            for one in served:
                one.start()
                undo.callback(one.end)
            undo.pop_all()
        self._served = served
        return self._size()

    def refresh(self) -> Nodes:
        """The nodes with the new size if the file has grown; the guest may use it at once."""
        sectors = self._image.measure()
        if sectors < self._image.sectors:
            raise KvmxenError(
                f"{self._spec.path} is smaller than {self._spec.target}, and a disk in use can "
                "only grow"
            )
        if sectors == self._image.sectors:
            return {}
        self._image.sectors = sectors
        for one in self._served:
            one.grow(sectors)
        return {"sectors": sectors}

    def settle(self) -> None:
        """Get the frontend to submit the requests that it holds back. Linux stops its queues
        before it closes its end, and the removal of its disk then waits for the requests in them;
        an event starts the queues again (blkif_interrupt() in drivers/block/xen-blkfront.c)."""
        end = time.monotonic() + _SETTLING
        last = time.monotonic()
        while (now := time.monotonic()) < end and now - last < _QUIET:
            for one in self._served:
                one.wake_frontend()
            time.sleep(_PAUSE)
            if any(one.pending for one in self._served):
                last = time.monotonic()

    def disconnect(self) -> None:
        """Finish the operations in flight, and release all grants and ports."""
        served, self._served = self._served, []
        for one in served:
            one.stop()
        end = time.monotonic() + _FINISHING
        for one in served:
            one.thread.join(max(0.0, end - time.monotonic()))
        if any(one.thread.is_alive() for one in served):
            self._image.abandon()
        for one in served:
            one.thread.join()
            self._past.update(one.figures())
            one.close()

    def close(self) -> None:
        """Close the image."""
        self._image.close()

    def figures(self) -> dict[str, int]:
        """Counts of requests, bytes and so on, over all queues since the device was made."""
        total = Counter(self._past)
        for one in self._served:
            total.update(one.figures())
        return dict(total)


class _Served:
    """One queue: the ring's pages, the event channel, the engine and the thread."""

    def __init__(self, peer: Peer, refs: list[int], port: int) -> None:
        self._peer = peer
        self._undo = ExitStack()
        try:
            self._pages = RingPages(peer, refs)
            self._undo.callback(self._pages.close)
            self._channel = EventChannel(peer, port)
            self._undo.callback(self._channel.close)
        except BaseException:
            self.close()
            raise

    def open(
        self,
        image: Image,
        spec: DiskSpec,
        layouts: dict[str, object],
        persistent: bool,
        broken: Callable[[FrontendError], None],
    ) -> None:
        """Create the ring's queue and engine; `thread` is then ready to start."""
        sizes = {name: layout.sizeof() for name, layout in layouts.items()}  # type: ignore[attr-defined]
        self._ring = BackRing(self._pages.window, sizes["request"], sizes["response"])
        engine = image.engine(self._channel.doorbell.fd, self._ring.size)
        self._undo.callback(engine.close)
        self._queue = BlockQueue(
            self._ring,
            self._peer.grants,
            engine,
            self._channel.notify,
            self._peer.fail,
            sectors=image.sectors,
            sector_size=image.sector_size,
            readonly=spec.readonly,
            discard=image.discards,
            flush=spec.cache != "unsafe",
            persistent=persistent,
        )
        self._undo.callback(self._queue.close)
        self._broken = broken
        self.thread = threading.Thread(target=self._serve, name="block", daemon=True)

    def start(self) -> None:
        """Start to serve; raises FrontendError if the host cannot create the thread."""
        start_thread(self.thread)

    def _serve(self) -> None:
        self._queue.serve()
        if self._queue.broken:
            self._broken(FrontendError(errno.EIO, "the ring has more requests than it has room"))

    @property
    def pending(self) -> int:
        """The number of requests without a response; 0 if the ring is broken."""
        return 0 if self._queue.broken else self._ring.pending

    def grow(self, sectors: int) -> None:
        """Let the disk have `sectors` from now on."""
        self._queue.grow(sectors)

    def wake_frontend(self) -> None:
        """Send a spurious event."""
        self._channel.notify()

    def stop(self) -> None:
        """Tell the thread to end."""
        self._queue.stop()
        self._channel.doorbell.ring()

    def end(self) -> None:
        """Tell the thread to end, and wait until it has."""
        self.stop()
        self.thread.join()

    def close(self) -> None:
        """Release everything; the thread has ended or was never started."""
        self._undo.close()

    def figures(self) -> dict[str, int]:
        """The queue's counts, with the rings of the doorbell that it has not read."""
        figures = self._queue.figures()
        return figures | {"kicks": figures["kicks"] + self._channel.doorbell.unread}
