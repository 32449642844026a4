"""Images of other formats than raw: qemu-nbd, a process of its own, reads and writes them.

It serves a Unix socket in a folder that is gone as soon as all connections are made, and it ends
by itself when the last of them does, however this process ended. One that hangs is killed.
"""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from kvmxen.backends.block.engine import Engine
from kvmxen.backends.block.image import whole_sectors
from kvmxen.backends.block.nbd import NbdEngine
from kvmxen.backends.block.qcow2 import check_chain
from kvmxen.config.disk import DiskSpec
from kvmxen.errors import KvmxenError
from kvmxen.streams import say

_START_S = 60.0
_END_S = 60.0
_HANDSHAKE_MAGIC = b"NBDMAGICIHAVEOPT"
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPTION_GO = 7
_OPTION_REPLY = 0x3E889045565A9
_REPLY_ACK, _REPLY_INFO, _INFO_EXPORT = 1, 3, 0
_FLAG_SEND_TRIM = 1 << 5


class QemuImage:
    """The qcow2 image that `spec` names, with `connections` for as many engines at a time.

    Raises KvmxenError where it, or qemu-nbd, cannot be used.
    """

    def __init__(self, spec: DiskSpec, connections: int) -> None:
        check_chain(spec.path)
        self._path = spec.path
        self._free: list[socket.socket] = []
        self._used: list[socket.socket] = []
        self.sector_size = spec.sector_size
        with tempfile.TemporaryDirectory(prefix="kvmxen-") as folder:
            where = Path(folder, "nbd")
            self._process = self._start(spec, where, connections)
            try:
                for _ in range(connections):
                    self._free.append(self._connect(where))
                size, flags = [_negotiate(one) for one in self._free][-1]
            except (OSError, struct.error):
                raise self._refusal() from None
            except BaseException:
                self._kill()
                raise
        for one in self._free:
            one.setblocking(False)
        self.sectors = whole_sectors(size, self.sector_size)
        self.discards = spec.discard and not spec.readonly and bool(flags & _FLAG_SEND_TRIM)

    def _start(self, spec: DiskSpec, where: Path, connections: int) -> subprocess.Popen[bytes]:
        program = shutil.which("qemu-nbd")
        if program is None:
            raise KvmxenError("qcow2 images need qemu-nbd: install Debian's package qemu-utils")
        command = [program, "--format", spec.format, "--socket", str(where)]
        command += ["--shared", str(connections), "--cache", spec.cache]
        command += ["--discard", "unmap" if spec.discard else "ignore"]
        command += ["--read-only"] if spec.readonly else []
        return subprocess.Popen(
            [*command, "--", str(spec.path.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def _connect(self, where: Path) -> socket.socket:
        end = time.monotonic() + _START_S
        while True:
            connected = socket.socket(socket.AF_UNIX)
            try:
                connected.settimeout(_START_S)
                connected.connect(str(where))
                return connected
            except (FileNotFoundError, ConnectionRefusedError):
                connected.close()
            if self._process.poll() is not None or time.monotonic() > end:
                raise self._refusal()
            time.sleep(0.005)

    def _refusal(self) -> KvmxenError:
        self._kill()
        assert self._process.stderr
        with self._process.stderr as stderr:
            why = stderr.read().decode(errors="replace").strip().splitlines()[-1:]
        reason = why[0].removeprefix("qemu-nbd: ") if why else "qemu-nbd ended"
        return KvmxenError(f"the disk {self._path} cannot be used: {reason}")

    def _kill(self) -> None:
        for one in self._free:
            one.close()
        self._process.kill()
        self._process.wait()

    def engine(self, doorbell: int, depth: int) -> Engine:
        """On one of the connections, which is free again when the engine is closed."""
        connection = self._free.pop()
        self._used.append(connection)

        def released(usable: bool) -> None:
            if not usable:
                _shut(connection)
            self._used.remove(connection)
            self._free.append(connection)

        return NbdEngine(connection.fileno(), doorbell, released)

    def abandon(self) -> None:
        """Kill qemu-nbd, so that what waits for it ends with an error."""
        self._process.kill()
        # Killed or not, it may be the host's kernel that hangs.
        for one in self._used:
            _shut(one)
        say(f"the disk {self._path}: qemu-nbd does not answer and is killed; writes may be lost")

    def close(self) -> None:
        """End the connections; qemu-nbd writes what it holds, and ends."""
        for one in self._free:
            one.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.abandon()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
        if self._process.stderr:
            self._process.stderr.close()


def _shut(connection: socket.socket) -> None:
    """End it, for whoever uses it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _negotiate(connected: socket.socket) -> tuple[int, int]:
    """From the server's greeting to the transmission phase: the export's size and flags.

    Raises OSError where the server does not go along.
    """
    greeting = _receive(connected, 18)
    if greeting[:16] != _HANDSHAKE_MAGIC or not greeting[17] & _FIXED_NEWSTYLE:
        raise OSError("not an NBD server")
    connected.sendall(struct.pack(">I", _FIXED_NEWSTYLE | (greeting[17] & _NO_ZEROES)))
    # The export with the empty name, and no information but what every reply has.
    data = struct.pack(">IH", 0, 0)
    connected.sendall(b"IHAVEOPT" + struct.pack(">II", _OPTION_GO, len(data)) + data)
    export: tuple[int, int] | None = None
    while True:
        magic, option, kind, length = struct.unpack(">QIII", _receive(connected, 20))
        if magic != _OPTION_REPLY or option != _OPTION_GO or length > 1 << 16:
            raise OSError("not an NBD server")
        data = _receive(connected, length)
        if kind == _REPLY_ACK and export:
            return export
        if kind != _REPLY_INFO:
            raise OSError("the NBD server has no such export")
        if struct.unpack_from(">H", data)[0] == _INFO_EXPORT:
            size, flags = struct.unpack_from(">QH", data, 2)
            export = int(size), int(flags)


def _receive(connected: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = connected.recv(length - len(data))
        if not more:
            raise OSError("the NBD server ended")
        data += more
    return data
