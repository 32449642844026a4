"""Storage pools, each a folder, and the volumes in them: files."""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4
from xml.etree import ElementTree

from kvmxen.config.readers.xml_node import Node, UnsupportedElement, XmlError, parse
from kvmxen.domain.rundir import configuration_directory
from kvmxen.errors import KvmxenError
from kvmxen.front.libvirt.wire import Code, Failure

_NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+-]{0,254}", re.ASCII)
_UNITS = {"": 1, "b": 1, "bytes": 1, "k": 1 << 10, "K": 1 << 10, "KiB": 1 << 10, "M": 1 << 20,
          "MiB": 1 << 20, "G": 1 << 30, "GiB": 1 << 30, "T": 1 << 40, "TiB": 1 << 40}  # fmt: skip
# The first bytes of a qcow2 image; its size for the guest is at 24 (qemu's docs/interop/qcow2).
_QCOW2 = struct.Struct(">4s20xQ")
# Likewise its version, the place of its backing file's name, and its incompatible features.
_FILES = struct.Struct(">4xIQ56xQ")
_EXTERNAL_DATA = 4


@dataclass(frozen=True)
class Pool:
    """A folder for images."""

    name: str
    uuid: UUID
    path: Path
    active: bool
    autostart: bool

    @property
    def key(self) -> tuple[str, bytes]:
        """As the protocol has it."""
        return self.name, self.uuid.bytes


@dataclass(frozen=True)
class Volume:
    """A file of a pool; `capacity` is its size for a guest, `allocation` on the disk, in bytes."""

    pool: Pool
    path: Path
    format: str
    capacity: int
    allocation: int

    @property
    def key(self) -> tuple[str, str, str]:
        """As the protocol has it."""
        return self.pool.name, self.path.name, str(self.path)


class Pools:
    """The pools that are defined in `folder`, a file of XML each, with what is on beside it."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or configuration_directory() / "pools"

    def __iter__(self) -> Iterator[Pool]:
        for file in sorted(self._folder.glob("*.xml")):
            with suppress(OSError, UnicodeDecodeError, XmlError, UnsupportedElement):
                name, uuid, path = _read_pool(file.read_text(encoding="utf-8"))
                if name == file.stem and uuid:
                    active = file.with_suffix(".active").exists()
                    yield Pool(name, uuid, path, active, file.with_suffix(".autostart").exists())

    def by_name(self, name: str) -> Pool:
        """The pool of that name."""
        for pool in self:
            if pool.name == name:
                return pool
        raise Failure(Code.NO_POOL, f"there is no storage pool {name!r:.80}")

    def by_uuid(self, uuid: bytes) -> Pool:
        """The pool of that UUID."""
        for pool in self:
            if pool.uuid.bytes == uuid:
                return pool
        raise Failure(Code.NO_POOL, f"there is no storage pool {UUID(bytes=uuid)}")

    def define(self, text: str) -> Pool:
        """Define a pool."""
        try:
            name, uuid, path = _read_pool(text)
        except UnsupportedElement as error:
            raise Failure(Code.UNSUPPORTED, str(error)) from None
        except XmlError as error:
            raise Failure(Code.XML, str(error)) from None
        for pool in self:
            if pool.name != name:
                if pool.path == path:
                    raise Failure(Code.FAILED, f"the storage pool {pool.name} has {path} already")
                if pool.uuid == uuid:
                    raise Failure(Code.FAILED, f"the storage pool {pool.name} has the UUID {uuid}")
                continue
            uuid = uuid or pool.uuid
            if pool.uuid != uuid:
                raise Failure(Code.FAILED, f"the storage pool {name} has the UUID {pool.uuid}")
            if pool.active and pool.path != path:
                raise Failure(Code.INVALID_STATE, f"the storage pool {name} is active: destroy it")
        pool = Pool(name, uuid or uuid4(), path, False, False)
        file = self._file(name, "xml")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
            new.write_text(pool_xml(pool), encoding="utf-8")
            new.replace(file)
        except OSError as error:
            raise KvmxenError(f"cannot define the pool {name}: {error.strerror}") from None
        return self.by_name(name)

    def undefine(self, pool: Pool) -> None:
        """Forget a pool; its files stay."""
        for suffix in ("active", "autostart", "xml"):
            self._file(pool.name, suffix).unlink(missing_ok=True)

    def build(self, pool: Pool) -> None:
        """Make the folder."""
        try:
            pool.path.mkdir(mode=0o711, parents=True, exist_ok=True)
        except OSError as error:
            raise KvmxenError(f"cannot create {pool.path}: {error.strerror}") from None

    def start(self, pool: Pool) -> None:
        """Use the folder, which must be there."""
        if not pool.path.is_dir():
            raise KvmxenError(f"there is no folder {pool.path}: build the pool {pool.name}")
        self._file(pool.name, "active").touch()

    def stop(self, pool: Pool) -> None:
        """Use it no more; its files stay."""
        self._file(pool.name, "active").unlink(missing_ok=True)

    def set_autostart(self, pool: Pool, on: bool) -> None:
        """Whether it is started with the host; it makes no difference, as pools stay active."""
        file = self._file(pool.name, "autostart")
        file.touch() if on else file.unlink(missing_ok=True)

    def _file(self, name: str, suffix: str) -> Path:
        return self._folder / f"{name}.{suffix}"


def _read_pool(text: str) -> tuple[str, UUID | None, Path]:
    root = parse(text)
    if root.name != "pool":
        raise XmlError(f"the XML describes a {root.name:.40}, not a storage pool")
    root.one_of("type", ("dir",))
    root.ignore("source", "capacity", "allocation", "available")
    name, uuid = root.value("name"), root.value("uuid")
    if not _NAME.fullmatch(name):
        raise XmlError(f"{name!r:.80} cannot name a storage pool")
    target = root.child("target")
    path = Path(target.value("path")) if target else Path()
    if target:
        target.ignore("permissions")
        target.done()
    if not path.is_absolute():
        raise XmlError("the storage pool has no <target><path>, which must be absolute")
    root.done()
    try:
        return name, UUID(uuid) if uuid else None, path
    except ValueError:
        raise XmlError(f"{uuid!r:.60} is not a UUID") from None


def pool_xml(pool: Pool) -> str:
    """A pool's XML."""
    root = ElementTree.Element("pool", type="dir")
    ElementTree.SubElement(root, "name").text = pool.name
    ElementTree.SubElement(root, "uuid").text = str(pool.uuid)
    for name, size in zip(("capacity", "allocation", "available"), space(pool), strict=True):
        ElementTree.SubElement(root, name, unit="bytes").text = str(size)
    ElementTree.SubElement(root, "source")
    target = ElementTree.SubElement(root, "target")
    ElementTree.SubElement(target, "path").text = str(pool.path)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def space(pool: Pool) -> tuple[int, int, int]:
    """Capacity, allocation and free space of the file system of a pool, in bytes."""
    try:
        usage = shutil.disk_usage(pool.path)
    except OSError:
        return 0, 0, 0
    return usage.total, usage.used, usage.free


def volumes(pool: Pool) -> list[Volume]:
    """The files of a pool."""
    if not pool.active:
        raise Failure(Code.INVALID_STATE, f"the storage pool {pool.name} is not active")
    try:
        paths = sorted(path for path in pool.path.iterdir() if _can_be_told(path.name))
    except OSError as error:
        raise KvmxenError(f"cannot read {pool.path}: {error.strerror}") from None
    return [volume for path in paths if (volume := _volume(pool, path))]


def volume(pool: Pool, name: str) -> Volume:
    """The file of that name in a pool."""
    if "/" not in name and _can_be_told(name) and (found := _volume(pool, pool.path / name)):
        return found
    raise Failure(Code.NO_VOLUME, f"the storage pool {pool.name} has no volume {name!r:.80}")


def _can_be_told(name: str) -> bool:
    """Whether a file's name can be in XML."""
    return name.isprintable() and name not in ("", ".", "..")


def by_path(pools: Pools, path: str) -> Volume:
    """The volume that is the file `path`."""
    wanted = Path(path)
    for pool in pools:
        if pool.active and wanted.parent == pool.path:
            with suppress(Failure):
                return volume(pool, wanted.name)
    raise Failure(Code.NO_VOLUME, f"no storage pool has {path!r:.200}")


def _volume(pool: Pool, path: Path) -> Volume | None:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return None
        # The name tells the format: a guest could write any bytes into a raw image.
        kind = "qcow2" if path.suffix == ".qcow2" else "raw"
        capacity = status.st_size
        if kind == "qcow2":
            with path.open("rb") as file:
                head = file.read(_QCOW2.size)
            if len(head) == _QCOW2.size and head.startswith(b"QFI\xfb"):
                capacity = _QCOW2.unpack(head)[1]
    except OSError:
        return None
    return Volume(pool, path, kind, capacity, status.st_blocks * 512)


def create(pool: Pool, text: str, source: Volume | None = None) -> Volume:
    """Create a volume of zeros, or a copy of `source`."""
    if not pool.active:
        raise Failure(Code.INVALID_STATE, f"the storage pool {pool.name} is not active")
    try:
        name, kind, capacity = _read_volume(text)
    except UnsupportedElement as error:
        raise Failure(Code.UNSUPPORTED, str(error)) from None
    except XmlError as error:
        raise Failure(Code.XML, str(error)) from None
    if (kind == "qcow2") != name.endswith(".qcow2"):
        raise Failure(
            Code.UNSUPPORTED, f"a volume's name tells its format: {name!r:.80} cannot be {kind}"
        )
    path = pool.path / name
    _claim(path)
    try:
        if source is not None:
            _check_alone(source)
            _qemu_img("convert", "-f", source.format, "-O", kind, str(source.path), str(path))
            # As libvirt has it, a copy may be larger, and is never smaller.
            if capacity > source.capacity:
                _qemu_img("resize", "-q", "-f", kind, str(path), str(capacity))
        elif kind == "qcow2":
            _qemu_img("create", "-q", "-f", "qcow2", str(path), str(capacity))
        else:
            os.truncate(path, capacity)
    except BaseException as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        if isinstance(error, OSError | OverflowError):
            raise KvmxenError(f"cannot create {path}: {error}") from None
        raise
    return volume(pool, name)


def _claim(path: Path) -> None:
    """Make an empty file for its owner alone, which nobody else has made or named before."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise Failure(Code.FAILED, f"there is a file {path} already") from None
    except OSError as error:
        raise KvmxenError(f"cannot create {path}: {error.strerror}") from None


def _check_alone(source: Volume) -> None:
    """Refuse an image that names other files, which qemu-img would read."""
    if source.format != "qcow2":
        return
    try:
        with source.path.open("rb") as file:
            head = file.read(_FILES.size)
    except OSError as error:
        raise KvmxenError(f"cannot read {source.path}: {error.strerror}") from None
    if len(head) < _FILES.size:
        raise Failure(Code.FAILED, f"{source.path} is not a qcow2 image")
    version, backing, features = _FILES.unpack(head)
    if backing or (version >= 3 and features & _EXTERNAL_DATA):
        raise Failure(Code.UNSUPPORTED, f"{source.path} is not copied, since it names another file")


def _read_volume(text: str) -> tuple[str, str, int]:
    root = parse(text)
    if root.name != "volume":
        raise XmlError(f"the XML describes a {root.name:.40}, not a volume")
    root.one_of("type", ("file",))
    root.ignore("key", "source", "allocation", "physical")
    name = root.value("name")
    if not _NAME.fullmatch(name):
        raise XmlError(f"{name!r:.80} cannot name a volume")
    kind = "raw"
    if target := root.child("target"):
        if form := target.child("format"):
            kind = form.one_of("type", ("raw", "qcow2"), "raw") or "raw"
            form.done()
        target.ignore("path", "permissions", "compat", "features", "timestamps", "clusterSize")
        target.done()
    capacity = _size(root)
    root.done()
    return name, kind, capacity


def _size(root: Node) -> int:
    node = root.child("capacity")
    if node is None:
        raise XmlError("the volume has no <capacity>")
    unit = node.one_of("unit", _UNITS)
    node.done()
    if not node.text.isdecimal() or len(node.text) > 18:
        raise XmlError(f"{node.text!r:.40} is not a size")
    return int(node.text) * _UNITS[unit]


def _qemu_img(*arguments: str) -> None:
    try:
        subprocess.run(["qemu-img", *arguments], capture_output=True, check=True)
    except FileNotFoundError:
        raise KvmxenError("qcow2 volumes need qemu-img: install qemu-utils") from None
    except subprocess.CalledProcessError as error:
        why = os.fsdecode(error.stderr).strip().splitlines()[-1:] or ["no reason given"]
        raise KvmxenError(f"qemu-img {arguments[0]} failed: {why[0]}") from None


def volume_xml(found: Volume) -> str:
    """A volume's XML."""
    root = ElementTree.Element("volume", type="file")
    ElementTree.SubElement(root, "name").text = found.path.name
    ElementTree.SubElement(root, "key").text = str(found.path)
    for name, size in (("capacity", found.capacity), ("allocation", found.allocation)):
        ElementTree.SubElement(root, name, unit="bytes").text = str(size)
    target = ElementTree.SubElement(root, "target")
    ElementTree.SubElement(target, "path").text = str(found.path)
    ElementTree.SubElement(target, "format", type=found.format)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
