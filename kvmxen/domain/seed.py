"""The disk from which cloud-init in a guest reads its data: NoCloud's seed, an ISO 9660 image."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from uuid import UUID

from kvmxen.config import Config, DiskSpec
from kvmxen.config.cloud_init import CloudInit
from kvmxen.loader.files import RegularFile

# NoCloud looks for a file system of this label.
_LABEL = "cidata"
# Bytes of a file; cloud-init's own services allow far less.
_MOST = 16 << 20


def with_seed(config: Config, uuid: UUID, folder: Path) -> Config:
    """`config` with a read-only disk for cloud-init, made in `folder`, if it asks for one.

    Raises KvmxenError if a file cannot be read.
    """
    if config.cloud_init is None:
        return config
    path = folder / "seed.iso"
    _write(path, config.cloud_init, config.name, uuid)
    seed = DiskSpec(path=path, readonly=True)
    return replace(config, disks=(*config.disks, seed), cloud_init=None)


def _write(path: Path, data: CloudInit, name: str, uuid: UUID) -> None:
    from pycdlib import PyCdlib

    files = {
        "user-data": _read(data.user_data),
        "meta-data": (
            _read(data.meta_data)
            if data.meta_data
            else f"instance-id: {uuid}\nlocal-hostname: {name}\n".encode()
        ),
    }
    image = PyCdlib()
    image.new(interchange_level=3, vol_ident=_LABEL, joliet=3, rock_ridge="1.09")
    for file, content in files.items():
        short = file.replace("-", "").upper()
        image.add_fp(
            BytesIO(content), len(content), f"/{short}.;1", rr_name=file, joliet_path=f"/{file}"
        )
    image.write(str(path))
    image.close()


def _read(path: Path) -> bytes:
    with RegularFile(path, f"the file {path} for cloud-init") as file:
        return bytes(file.read(_MOST, f"cloud-init's files have at most {_MOST >> 20} MiB"))
