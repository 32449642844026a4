"""The definitions of domains that libvirt's clients have made: a file of XML each."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from kvmxen.config.domain import is_name
from kvmxen.config.readers.libvirt import DomainXml, read, write
from kvmxen.domain.rundir import configuration_directory
from kvmxen.errors import KvmxenError, UsageError


@dataclass(frozen=True)
class Definition:
    """A domain as it is started the next time; its Config has a UUID."""

    xml: DomainXml
    autostart: bool

    @property
    def name(self) -> str:
        """The domain's name."""
        return self.xml.config.name

    @property
    def uuid(self) -> UUID:
        """The domain's UUID."""
        assert self.xml.config.uuid is not None
        return self.xml.config.uuid


class Definitions:
    """The definitions in `folder`, which any process may change. Raises KvmxenError on failure."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or configuration_directory() / "domains"
        self._autostart = self._folder / "autostart"
        # What was read of a file, with its identity, so that it is read once.
        self._known: dict[str, tuple[tuple[int, int, int], DomainXml]] = {}

    def __iter__(self) -> Iterator[Definition]:
        try:
            names = sorted(path.stem for path in self._folder.glob("*.xml"))
            started = {path.stem for path in self._autostart.glob("*.xml")}
        except OSError:
            return
        for name in names:
            if is_name(name) and (xml := self._read(name)) is not None:
                yield Definition(xml, name in started)

    def save(self, xml: DomainXml) -> None:
        """Keep a definition, instead of the last of that name.

        Raises UsageError for a text that XML cannot have: the definition would be lost.
        """
        text = write(xml)
        read(text)
        path = self._path(xml.config.name)
        # Other processes may write the same definition.
        new = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with new.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError as error:
            raise KvmxenError(f"cannot write {path}: {error.strerror}") from None

    def remove(self, name: str) -> None:
        """Forget a definition."""
        self.set_autostart(name, False)
        self._path(name).unlink(missing_ok=True)

    def set_autostart(self, name: str, on: bool) -> None:
        """Whether the server starts the domain when it begins."""
        path = self._autostart / f"{name}.xml"
        try:
            if on:
                self._autostart.mkdir(mode=0o700, parents=True, exist_ok=True)
                with suppress(FileExistsError):
                    path.symlink_to(self._path(name))
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise KvmxenError(f"cannot change {path}: {error.strerror}") from None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.xml"

    def _read(self, name: str) -> DomainXml | None:
        path = self._path(name)
        try:
            status = path.stat()
            identity = (status.st_ino, status.st_mtime_ns, status.st_size)
            known = self._known.get(name)
            if known is not None and known[0] == identity:
                return known[1]
            xml = read(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, UsageError):
            # Somebody else's file, or one that was removed just now.
            return None
        if xml.config.uuid is None or xml.config.name != name:
            return None
        self._known[name] = identity, xml
        return xml
