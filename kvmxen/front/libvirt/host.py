"""The domains as libvirt sees them: those that run, and those that are defined."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID, uuid4

from kvmxen.config.domain import Config
from kvmxen.config.readers.libvirt import DomainXml, read
from kvmxen.config.readers.xml_node import UnsupportedElement
from kvmxen.domain.description import Description
from kvmxen.domain.record import Record, read_record
from kvmxen.domain.remote import RemoteDomain
from kvmxen.domain.rundir import running, runtime_root
from kvmxen.domain.spawn import spawn
from kvmxen.errors import KvmxenError, UsageError
from kvmxen.front.libvirt.definitions import Definition, Definitions
from kvmxen.front.libvirt.storage import Pools
from kvmxen.front.libvirt.wire import Code, Failure

# How long a domain may take to answer, in s.
_PATIENCE = 30.0
_LOOK_EVERY_S = 0.02


@dataclass(frozen=True)
class Guest:
    """A domain that runs (`id` is not -1), or is defined, or both."""

    name: str
    uuid: UUID
    id: int
    definition: Definition | None

    @property
    def key(self) -> tuple[str, bytes, int]:
        """As the protocol has it."""
        return self.name, self.uuid.bytes, self.id


class Host:
    """The domains of this user; it holds nothing that is not on disk or in a domain's process."""

    def __init__(
        self,
        definitions: Definitions | None = None,
        pools: Pools | None = None,
        root: Path | None = None,
    ) -> None:
        self.definitions = definitions or Definitions()
        self.pools = pools or Pools()
        self.root = root or runtime_root()
        # Held while a domain is checked or defined: one name or UUID has one owner.
        self._changing = threading.Lock()
        # Names and UUIDs of the domains that are being started, which may take long.
        self._starting: list[tuple[str, UUID | None]] = []

    def guests(self) -> list[Guest]:
        """All domains."""
        defined = {definition.name: definition for definition in self.definitions}
        found = [
            Guest(one.name, one.uuid, one.id, _same(defined.pop(one.name, None), one.uuid))
            for one in running(self.root)
        ]
        return found + [Guest(one.name, one.uuid, -1, one) for one in defined.values()]

    def by_name(self, name: str) -> Guest:
        """The domain of that name."""
        return self._one(f"with the name {name!r:.80}", lambda guest: guest.name == name)

    def by_uuid(self, uuid: bytes) -> Guest:
        """The domain of that UUID."""
        return self._one(f"with the UUID {UUID(bytes=uuid)}", lambda one: one.uuid.bytes == uuid)

    def by_id(self, number: int) -> Guest:
        """The running domain of that id."""
        return self._one(f"with the id {number}", lambda guest: guest.id == number != -1)

    def _one(self, what: str, wanted: Callable[[Guest], bool]) -> Guest:
        for guest in self.guests():
            if wanted(guest):
                return guest
        raise Failure(Code.NO_DOMAIN, f"there is no domain {what}")

    def connect(self, guest: Guest) -> RemoteDomain:
        """The running domain; Failure if it does not run."""
        if guest.id == -1:
            raise Failure(Code.INVALID_STATE, f"the domain {guest.name} is not running")
        return RemoteDomain(guest.name, patience=_PATIENCE)

    def describe(self, guest: Guest) -> Description | None:
        """What a running domain says of itself; None if it does not run, or not any more."""
        if guest.id == -1:
            return None
        try:
            return self.connect(guest).describe()
        except KvmxenError:
            return None

    def wait_for_end(self, guest: Guest, seconds: float) -> None:
        """Wait until a domain's process has ended; Failure if it takes longer."""
        end = time.monotonic() + seconds
        while any(one.id == guest.id for one in running(self.root)):
            if time.monotonic() > end:
                text = f"the domain {guest.name} has not ended in {seconds:g} seconds"
                raise Failure(Code.FAILED, text)
            time.sleep(_LOOK_EVERY_S)

    def last_end(self, guest: Guest) -> Record | None:
        """How a domain that does not run ended."""
        record = read_record(self.root, guest.name)
        return record if record and record.domain.uuid == guest.uuid else None

    def read(self, text: str) -> DomainXml:
        """A domain's XML, with a UUID; Failure if it is wrong."""
        try:
            xml = read(text)
        except UnsupportedElement as error:
            raise Failure(Code.UNSUPPORTED, str(error)) from None
        except UsageError as error:
            raise Failure(Code.XML, str(error)) from None
        config = xml.config
        known = next((g.uuid for g in self.guests() if g.name == config.name), None)
        return replace(xml, config=replace(config, uuid=config.uuid or known or uuid4()))

    def define(self, text: str) -> tuple[Guest, bool]:
        """Define a domain; returns it, and whether it is new."""
        with self._changing:
            xml = self.read(text)
            new = self._check(xml.config)
            self.definitions.save(xml)
        return self.by_name(xml.config.name), new

    def change(self, guest: Guest, changed: Callable[[DomainXml], DomainXml]) -> None:
        """Replace the definition of `guest` by what `changed` makes of it."""
        with self._changing:
            for definition in self.definitions:
                if definition.uuid == guest.uuid:
                    self.definitions.save(changed(definition.xml))
                    return
        raise Failure(Code.INVALID_STATE, f"the domain {guest.name} is not defined")

    def create(self, text: str, *, paused: bool) -> Guest:
        """Start a domain that need not be defined."""
        with self._changing:
            xml = self.read(text)
            self._check(xml.config)
            self._begin(xml.config)
        self._start(xml.config, paused)
        return self.by_name(xml.config.name)

    def start(self, guest: Guest, *, paused: bool) -> Guest:
        """Start a defined domain."""
        if guest.id != -1:
            raise Failure(Code.INVALID_STATE, f"the domain {guest.name} is already running")
        assert guest.definition is not None
        config = guest.definition.xml.config
        with self._changing:
            self._begin(config)
        self._start(config, paused)
        return self.by_name(guest.name)

    def _begin(self, config: Config) -> None:
        """Reserve a domain's name and UUID until it is started."""
        if any(config.name == name or config.uuid == uuid for name, uuid in self._starting):
            raise Failure(Code.INVALID_STATE, f"the domain {config.name} is being started")
        self._starting.append((config.name, config.uuid))

    def _start(self, config: Config, paused: bool) -> None:
        try:
            spawn(config, paused=paused)
        finally:
            self._starting.remove((config.name, config.uuid))

    def _check(self, config: Config) -> bool:
        """Fail if the name or the UUID is another domain's; returns whether both are new."""
        for guest in self.guests():
            if (guest.name == config.name) != (guest.uuid == config.uuid):
                raise Failure(
                    Code.FAILED,
                    f"the domain {guest.name} has the UUID {guest.uuid}: give another name or UUID",
                )
            if guest.name == config.name:
                return False
        return True


def _same(definition: Definition | None, uuid: UUID) -> Definition | None:
    return definition if definition is not None and definition.uuid == uuid else None
