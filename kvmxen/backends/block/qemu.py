"""Images in formats other than raw: a qemu-nbd process of their own reads and writes them.

It is connected before it starts, and exits when its last connection ends. A process that hangs is
killed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from kvmxen.backends.block.chain import KEY_ID, Chain
from kvmxen.backends.block.engine import Engine
from kvmxen.backends.block.image import whole_sectors
from kvmxen.backends.block.nbd import NbdEngine
from kvmxen.backends.block.server import Server, passed
from kvmxen.config.disk import DiskSpec
from kvmxen.errors import KvmxenError, printable
from kvmxen.streams import say

_START_S = 60.0
_END_S = 60.0
_HANDSHAKE_MAGIC = b"NBDMAGICIHAVEOPT"
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPTION_GO = 7
_OPTION_REPLY = 0x3E889045565A9
_REPLY_ACK, _REPLY_INFO, _INFO_EXPORT = 1, 3, 0
_FLAG_SEND_TRIM = 1 << 5
_WRONG_KEY = "Invalid password"


class QemuImage:
    """The image that `spec` names, with `connections`, one for each engine in use at a time.

    Raises KvmxenError if the image or qemu-nbd cannot be used.
    """

    def __init__(self, spec: DiskSpec, connections: int) -> None:
        name = f"{spec.target} ({spec.path})" if spec.target else str(spec.path)
        self._name = f"the disk {printable(name)}"
        self._spec = spec
        self._free: list[socket.socket] = []
        self._used: list[socket.socket] = []
        self.sector_size = spec.sector_size
        self._chain = Chain(spec)
        try:
            size, flags = self._serve(connections)
        except BaseException:
            for one in self._free:
                one.close()
            self._chain.close()
            raise
        self.sectors = whole_sectors(size, self.sector_size)
        self.discards = spec.discard and not spec.readonly and bool(flags & _FLAG_SEND_TRIM)

    def _serve(self, connections: int) -> tuple[int, int]:
        """Start qemu-nbd and connect; return the size in bytes of its export, and the export's
        flags."""
        program = shutil.which("qemu-nbd")
        if program is None:
            raise KvmxenError(
                f"{self._spec.format} images need qemu-nbd: install Debian's package qemu-utils"
            )
        try:
            with closing(socket.socket(socket.AF_UNIX)) as listener:
                self._free += _connect(listener, connections)
                self._server = self._start(str(Path(program).absolute()), listener)
        except OSError as error:
            raise KvmxenError(f"{self._name} cannot be served: {error.strerror}") from None
        try:
            for one in self._free:
                one.settimeout(_START_S)
                found = _negotiate(one)
                one.setblocking(False)
        except (OSError, struct.error):
            raise self._refusal() from None
        except BaseException:
            self._server.kill()
            raise
        return found

    def _start(self, program: str, listener: socket.socket) -> Server:
        files = self._chain.files
        with ExitStack() as stack:
            listening, *copies = stack.enter_context(
                passed(listener.fileno(), *(file.fd for file in files))
            )
            names = {file: f"/proc/self/fd/{fd}" for file, fd in zip(files, copies, strict=True)}
            self._paths = {name: str(file.path) for file, name in names.items()}
            command = [program, "--shared", str(len(self._free)), "--cache", self._spec.cache]
            command += ["--discard", "unmap" if self._spec.discard else "ignore"]
            command += ["--read-only"] if self._spec.readonly else []
            readonly = [fd for file, fd in zip(files, copies, strict=True) if not file.writable]
            if self._chain.key is not None:
                key = stack.enter_context(_pipe_of(self._chain.key))
                readonly += stack.enter_context(passed(key))
                command += ["--object", f"secret,id={KEY_ID},file=/proc/self/fd/{readonly[-1]}"]
            self._node = "json:" + json.dumps(self._chain.node(names.__getitem__))
            writable = [fd for file, fd in zip(files, copies, strict=True) if file.writable]
            return Server(self._name, [*command, self._node], listening, readonly, writable)

    def _refusal(self) -> KvmxenError:
        self._server.kill()
        self._server.wait(_END_S)
        why = self._server.said.replace(f"Failed to blk_new_open '{self._node}': ", "")
        why = re.sub(r"/proc/self/fd/\d+", lambda found: self._paths.get(found[0], found[0]), why)
        if self._spec.key and _WRONG_KEY in why:
            why = (
                f"the key in {self._spec.key} does not open it; all of the file is the key, a "
                "newline at its end too"
            )
        why = why or "qemu-nbd ended, or did not answer"
        return KvmxenError(f"the disk {self._spec.path} cannot be used: {why}")

    def engine(self, doorbell: int, depth: int) -> Engine:
        """An engine on a free connection, which is free again after the engine is closed."""
        connection = self._free.pop()
        self._used.append(connection)

        def released(usable: bool) -> None:
            if not usable:
                _shut(connection)
            self._used.remove(connection)
            self._free.append(connection)

        return NbdEngine(connection.fileno(), doorbell, released)

    def measure(self) -> int:
        """Raises KvmxenError: nobody else can grow an image in use, and qemu-nbd does not."""
        raise KvmxenError(
            f"{self._name} has the format {self._spec.format}: only raw disks can grow while they "
            "are in use"
        )

    def abandon(self) -> None:
        """Kill qemu-nbd, so that everything that waits for it fails."""
        self._server.kill()
        # A killed process may still hang in the host's kernel.
        for one in self._used:
            _shut(one)
        say(f"{self._name}: killing qemu-nbd, which does not answer; writes may be lost")

    def close(self) -> None:
        """Close the connections; qemu-nbd writes back what it holds, and exits."""
        self._server.expect_end()
        for one in self._free:
            one.close()
        if not self._server.wait(_END_S):
            self.abandon()
            self._server.wait(_END_S)
        self._chain.close()


def _connect(listener: socket.socket, count: int) -> list[socket.socket]:
    """Make `listener` listen, and connect to it `count` times; nobody else can connect later."""
    connected: list[socket.socket] = []
    folder = tempfile.mkdtemp(prefix="kvmxen-")
    with ExitStack() as undo:
        undo.callback(os.rmdir, folder)
        # The folder's own path may be too long for a socket's address.
        place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        undo.callback(os.close, place)
        path = f"/proc/self/fd/{place}/nbd"
        try:
            listener.bind(path)
            undo.callback(os.unlink, path)
            listener.listen(count)
            for _ in range(count):
                connected.append(socket.socket(socket.AF_UNIX))
                connected[-1].connect(path)
        except BaseException:
            for one in connected:
                one.close()
            raise
    return connected


@contextmanager
def _pipe_of(data: bytes) -> Iterator[int]:
    """The read end of a pipe that holds `data`, which fits in it."""
    reader, writer = os.pipe()
    try:
        os.write(writer, data)
        os.close(writer)
        yield reader
    finally:
        os.close(reader)


def _shut(connection: socket.socket) -> None:
    """Shut the connection down for all its users."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _negotiate(connected: socket.socket) -> tuple[int, int]:
    """Go from the server's greeting to the transmission phase; return the export's size in bytes
    and its flags.

    Raises OSError if the server does not cooperate.
    """
    greeting = _receive(connected, 18)
    if greeting[:16] != _HANDSHAKE_MAGIC or not greeting[17] & _FIXED_NEWSTYLE:
        raise OSError("not an NBD server")
    connected.sendall(struct.pack(">I", _FIXED_NEWSTYLE | (greeting[17] & _NO_ZEROES)))
    # Ask for the export with the empty name, with no information beyond what every reply has.
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
