"""The files that make up a disk in a format other than raw, and how qemu is told to use them.

kvmxen opens each file, and qemu reopens it by its descriptor, so qemu never sees a name from an
image. kvmxen refuses an image that refers to other files, unless a person has allowed them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from kvmxen.backends.block.files import is_block_device, open_disk, read_key, size_of
from kvmxen.backends.block.qcow2 import Header, read_header
from kvmxen.backends.block.vhd import check_vhd
from kvmxen.backends.block.vhdx import check_vhdx
from kvmxen.backends.block.vmdk import check_vmdk
from kvmxen.config.disk import DiskSpec
from kvmxen.errors import KvmxenError

# The formats that qemu calls by another name.
_DRIVERS = {"vhd": "vpc"}
_BEHIND = ("raw", "qcow2")
_MAX_FILES = 64
# The secret's name within qemu-nbd.
KEY_ID = "key"


@dataclass(frozen=True)
class File:
    """One file of a chain, open and locked as `fd`."""

    path: Path
    fd: int
    format: str
    writable: bool


class Chain:
    """The image that `spec` names and the files behind it, the nearest first; `key` is its
    passphrase. Raises KvmxenError if a file cannot be used or is not allowed."""

    def __init__(self, spec: DiskSpec) -> None:
        self.files: list[File] = []
        self.key: bytes | None = None
        try:
            self._open(spec.path, spec.format, spec.readonly)
            if spec.format == "qcow2":
                self._open_behind(spec)
            elif spec.format == "vhd":
                fd = self.files[0].fd
                check_vhd(fd, spec.path, size_of(fd, spec.path))
            elif spec.format == "vmdk":
                check_vmdk(self.files[0].fd, spec.path, readonly=spec.readonly)
            else:
                check_vhdx(self.files[0].fd, spec.path)
        except OSError as error:
            self.close()
            raise KvmxenError(f"the disk {spec.path} cannot be read: {error.strerror}") from None
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path, form: str, readonly: bool) -> None:
        if len(self.files) == _MAX_FILES:
            raise KvmxenError(
                f"{path} is backed by more than {_MAX_FILES} images: merge some of them"
            )
        fd = open_disk(path, readonly=readonly)
        self.files.append(File(path, fd, form, not readonly))

    def _open_behind(self, spec: DiskSpec) -> None:
        top = self.files[0]
        header = read_header(top.fd, top.path)
        self._take_key(spec, header)
        while header.backing is not None:
            path, form = self._behind(self.files[-1].path, header, spec)
            self._open(path, form, readonly=True)
            if form == "raw":
                break
            header = read_header(self.files[-1].fd, path)
            if header.encrypted:
                raise KvmxenError(
                    f"the backing file {path} is encrypted, which is not supported: convert it"
                )
        if len(spec.backing) >= len(self.files):
            raise KvmxenError(
                f"the disk {self.files[-1].path} has no backing file: "
                f"omit backing={spec.backing[len(self.files) - 1]}"
            )

    def _take_key(self, spec: DiskSpec, header: Header) -> None:
        if header.encrypted and spec.key is None:
            raise KvmxenError(f"the disk {spec.path} is encrypted: give key=FILE")
        if spec.key is not None:
            if not header.encrypted:
                raise KvmxenError(f"the disk {spec.path} is not encrypted: omit key=")
            self.key = read_key(spec.key)

    def _behind(self, path: Path, header: Header, spec: DiskSpec) -> tuple[Path, str]:
        """The file behind the image at `path`, and its format."""
        assert header.backing is not None
        name, form = header.backing, header.backing_format
        behind = len(self.files) - 1
        if spec.follows_backing:
            if ":" in name.partition("/")[0]:
                raise KvmxenError(
                    f"the backing file {quote(name)} of {path} is not a file: give backing=FILE"
                )
            used = path.parent / name
        elif behind < len(spec.backing):
            used = spec.backing[behind]
        else:
            raise KvmxenError(
                f"the disk {path} has a backing file, which it calls {quote(name)}: give the "
                f"file to use as backing=FILE, or backing=allow if you trust the image"
            )
        if not form:
            raise KvmxenError(
                f"{path} does not name the format of its backing image: "
                f"qemu-img rebase -u -b {quote(name)} -F FORMAT {quote(str(path))}"
            )
        if form not in _BEHIND:
            raise KvmxenError(
                f"{path} has a backing image of format {quote(form)}: "
                f"convert that to {' or '.join(_BEHIND)}"
            )
        return used, form

    def node(self, filename: Callable[[File], str]) -> dict[str, object]:
        """A block node in qemu's terms, with all nodes below it; `filename` gives each file's
        name.

        Source: BlockdevOptions in qemu's qapi/block-core.json.
        """
        below: dict[str, object] | None = None
        for file in reversed(self.files):
            node: dict[str, object] = {
                "driver": _DRIVERS.get(file.format, file.format),
                "read-only": not file.writable,
                "file": {
                    "driver": "host_device" if is_block_device(file.fd) else "file",
                    "filename": filename(file),
                },
            }
            if file.format != "raw":
                # Given even if it is None; otherwise qemu would follow the header.
                node["backing"] = below
            below = node
        assert below is not None
        if self.key is not None:
            below["encrypt"] = {"format": "luks", "key-secret": KEY_ID}
        return below

    def close(self) -> None:
        """Close the files."""
        while self.files:
            os.close(self.files.pop().fd)
