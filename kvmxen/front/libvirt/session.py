"""What a client's calls need of its connection."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from kvmxen.domain.remote import RemoteDomain
from kvmxen.front.libvirt.host import Guest, Host

# A domain on the wire: name, UUID, id.
Key = tuple[str, bytes, int]


class Session(Protocol):
    """A client's connection, with the state that its calls change."""

    @property
    def host(self) -> Host: ...
    def register(self, event: int, domain: bytes | None) -> int: ...
    def deregister(self, callback: int) -> None: ...
    def lifecycle(self, guest: Guest, event: int, detail: int) -> None: ...
    def open_console(self, domain: RemoteDomain, *, force: bool) -> None: ...
    def open_upload(self, path: Path, offset: int, length: int) -> None: ...
