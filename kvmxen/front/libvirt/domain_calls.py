"""The calls that find, define, start and end domains, and change their devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kvmxen.config.disk import DiskSpec
from kvmxen.config.net import NetSpec, generate_mac
from kvmxen.config.readers.libvirt import DomainXml, read_device, write
from kvmxen.config.readers.xml_node import UnsupportedElement
from kvmxen.domain.description import Description
from kvmxen.domain.remote import RemoteDomain
from kvmxen.domain.targets import ask_for_memory, ask_for_vcpus
from kvmxen.errors import UsageError
from kvmxen.front.libvirt.events import Lifecycle
from kvmxen.front.libvirt.host import Guest
from kvmxen.front.libvirt.session import Key, Session
from kvmxen.front.libvirt.wire import Code, Failure

# virConnectListAllDomainsFlags, in groups of which one of each must hold.
_ACTIVE, _INACTIVE, _PERSISTENT, _TRANSIENT = 1, 2, 4, 8
_RUNNING, _PAUSED, _SHUTOFF, _OTHER = 16, 32, 64, 128
_MANAGED, _NOT_MANAGED, _AUTOSTART, _NO_AUTOSTART = 256, 512, 1024, 2048
_SNAPSHOT, _NO_SNAPSHOT = 4096, 8192
LIST_FLAGS = 2 * _NO_SNAPSHOT - 1
# virDomainModificationImpact and other flags.
_LIVE, _CONFIG = 1, 2
_XML_INACTIVE = 2
# virDomainCreateFlags. The last three mean nothing to a domain that is not saved, and XML is always
# checked.
_START_PAUSED, _BYPASS_CACHE, _FORCE_BOOT, _VALIDATE = 1, 4, 8, 16
_START = _START_PAUSED | _BYPASS_CACHE | _FORCE_BOOT | _VALIDATE
# virDomainShutdownFlagValues and virDomainRebootFlagValues: how the guest is asked.
_ACPI, _PARAVIRT = 1, 16
_CONSOLE_FORCE = 1
_MAXIMUM = 4
_GRACEFUL = 1
# How long destroy waits for a guest's end, in s.
_DESTROY_S = 60.0
_GRACEFUL_S = 10.0
# virDomainMetadataType.
_DESCRIPTION, _TITLE, _ELEMENT = 0, 1, 2


def found(session: Session, key: Key) -> Guest:
    """The domain that a client means."""
    return session.host.by_uuid(key[1])


def connected(session: Session, key: Key) -> RemoteDomain:
    """The running domain that a client means."""
    return session.host.connect(found(session, key))


def _only(flags: int, known: int) -> None:
    """Refuse any flag that is not `known`, as libvirt does."""
    if unknown := flags & ~known:
        raise Failure(Code.INVALID, f"unsupported flags ({unknown:#x})")


# Finding.


def list_all(session: Session, _need: int, flags: int) -> tuple[list[Key], int]:
    """The domains that `flags` ask for."""
    guests = chosen(session, flags)
    return [guest.key for guest in guests], len(guests)


def chosen(session: Session, flags: int) -> list[Guest]:
    """The domains that virConnectListAllDomainsFlags ask for."""
    return [guest for guest in session.host.guests() if _wanted(session, guest, flags)]


def _wanted(session: Session, guest: Guest, flags: int) -> bool:
    running, defined = guest.id != -1, guest.definition is not None
    autostart = guest.definition is not None and guest.definition.autostart
    state = 0
    if flags & (_RUNNING | _PAUSED | _SHUTOFF | _OTHER):
        told = session.host.describe(guest)
        state = {"running": _RUNNING, "paused": _PAUSED}.get(
            told.state.value if told else "", _OTHER if told else _SHUTOFF
        )
    groups = (
        (_ACTIVE | _INACTIVE, _ACTIVE if running else _INACTIVE),
        (_PERSISTENT | _TRANSIENT, _PERSISTENT if defined else _TRANSIENT),
        (_RUNNING | _PAUSED | _SHUTOFF | _OTHER, state),
        (_MANAGED | _NOT_MANAGED, _NOT_MANAGED),
        (_AUTOSTART | _NO_AUTOSTART, _AUTOSTART if autostart else _NO_AUTOSTART),
        (_SNAPSHOT | _NO_SNAPSHOT, _NO_SNAPSHOT),
    )
    return all(not flags & group or flags & is_ for group, is_ in groups)


def number_of(running: bool) -> Callable[[Session], tuple[int]]:
    """A call for the number of domains that run, or of those defined that do not."""

    def number(session: Session) -> tuple[int]:
        return (sum((guest.id != -1) == running for guest in session.host.guests()),)

    return number


def list_ids(session: Session, most: int) -> tuple[list[int]]:
    """The ids of the running domains."""
    return ([guest.id for guest in session.host.guests() if guest.id != -1][: max(most, 0)],)


def list_defined(session: Session, most: int) -> tuple[list[str]]:
    """The names of the domains that do not run."""
    return ([guest.name for guest in session.host.guests() if guest.id == -1][: max(most, 0)],)


def by_name(session: Session, name: str) -> tuple[Key]:
    """The domain of a name."""
    return (session.host.by_name(name).key,)


def by_uuid(session: Session, uuid: bytes) -> tuple[Key]:
    """The domain of a UUID."""
    return (session.host.by_uuid(uuid).key,)


def by_id(session: Session, number: int) -> tuple[Key]:
    """The running domain of an id."""
    return (session.host.by_id(number).key,)


# Definitions.


def define(session: Session, text: str, _flags: int = 0) -> tuple[Key]:
    """Define a domain."""
    guest, new = session.host.define(text)
    session.lifecycle(guest, Lifecycle.DEFINED, 0 if new else 1)
    return (guest.key,)


def undefine(session: Session, key: Key, _flags: int = 0) -> tuple[()]:
    """Forget a definition; a domain that runs goes on."""
    guest = found(session, key)
    if guest.definition is None:
        raise Failure(
            Code.INVALID_STATE, f"the domain {guest.name} is not defined: destroy ends it"
        )
    session.host.definitions.remove(guest.name)
    session.lifecycle(guest, Lifecycle.UNDEFINED, 0)
    return ()


def rename(session: Session, key: Key, name: str | None, _flags: int) -> tuple[int]:
    """Give a domain that does not run another name."""
    guest = found(session, key)
    definition = guest.definition
    if definition is None or guest.id != -1:
        raise Failure(Code.INVALID_STATE, f"the domain {guest.name} runs: shut it down first")
    xml = definition.xml
    if any(other.name == name for other in session.host.guests()):
        raise Failure(Code.FAILED, f"there is a domain {name!r:.80} already")
    try:
        renamed = replace(xml, config=replace(xml.config, name=name or ""))
    except UsageError as error:
        raise Failure(Code.INVALID, str(error)) from None
    session.host.definitions.save(renamed)
    session.host.definitions.set_autostart(renamed.config.name, definition.autostart)
    session.host.definitions.remove(guest.name)
    session.lifecycle(guest, Lifecycle.UNDEFINED, 1)
    session.lifecycle(session.host.by_name(renamed.config.name), Lifecycle.DEFINED, 2)
    return (0,)


def get_autostart(session: Session, key: Key) -> tuple[int]:
    """Whether the server starts the domain when it begins."""
    definition = found(session, key).definition
    return (int(definition is not None and definition.autostart),)


def set_autostart(session: Session, key: Key, on: int) -> tuple[()]:
    """Whether the server starts the domain when it begins."""
    guest = found(session, key)
    _defined(guest)
    session.host.definitions.set_autostart(guest.name, bool(on))
    return ()


def _defined(guest: Guest) -> DomainXml:
    if guest.definition is None:
        raise Failure(Code.INVALID_STATE, f"the domain {guest.name} is not defined")
    return guest.definition.xml


def xml(session: Session, key: Key, flags: int) -> tuple[str]:
    """A domain's XML, of its run or of its definition."""
    guest = found(session, key)
    told = None if flags & _XML_INACTIVE and guest.definition else session.host.describe(guest)
    if told is None:
        return (write(_defined(guest)),)
    return (write(_live(guest, told), id=guest.id, console=told.console),)


def _live(guest: Guest, told: Description) -> DomainXml:
    """The XML of a running domain, with its devices of the moment."""
    nets = tuple(
        one.spec
        if one.spec.mac
        else replace(one.spec, mac=generate_mac(told.config.name, one.number))
        for one in told.interfaces
    )
    config = replace(told.config, uuid=told.uuid, disks=told.disks, nets=nets)
    if guest.definition is None:
        return DomainXml(config)
    return replace(guest.definition.xml, config=config)


def get_metadata(
    session: Session, key: Key, kind: int, _uri: str | None, _flags: int
) -> tuple[str]:
    """A domain's title or description."""
    definition = found(session, key).definition
    text = ""
    if definition is not None:
        kept = definition.xml
        text = {_DESCRIPTION: kept.description, _TITLE: kept.title}.get(kind, "")
    if not text:
        raise Failure(Code.NO_METADATA, "the domain has none")
    return (text,)


def set_metadata(
    session: Session,
    key: Key,
    kind: int,
    text: str | None,
    _name: str | None,
    _uri: str | None,
    _flags: int,
) -> tuple[()]:
    """Change a domain's title or description."""
    fields: dict[str, Any]
    if kind == _DESCRIPTION:
        fields = {"description": text or ""}
    elif kind == _TITLE:
        fields = {"title": " ".join((text or "").split())}
    else:
        raise Failure(Code.NO_SUPPORT, "only title and description can be changed")
    session.host.change(found(session, key), lambda kept: replace(kept, **fields))
    return ()


# Life.


def create(session: Session, key: Key, flags: int = 0) -> tuple[Key]:
    """Start a defined domain; returns when all its files are open."""
    _only(flags, _START)
    guest = session.host.start(found(session, key), paused=bool(flags & _START_PAUSED))
    return (guest.key,)


def create_quietly(session: Session, key: Key) -> tuple[()]:
    """The same for clients of old, which look the domain up again."""
    create(session, key)
    return ()


def create_xml(session: Session, text: str, flags: int) -> tuple[Key]:
    """Start a domain that need not be defined."""
    _only(flags, _START)
    return (session.host.create(text, paused=bool(flags & _START_PAUSED)).key,)


def suspend(session: Session, key: Key) -> tuple[()]:
    """Stop a domain's vCPUs."""
    connected(session, key).pause()
    return ()


def resume(session: Session, key: Key) -> tuple[()]:
    """Let a domain's vCPUs run."""
    connected(session, key).unpause()
    return ()


def shutdown(session: Session, key: Key, flags: int = 0) -> tuple[()]:
    """Ask the guest to power off."""
    _only(flags, _ACPI | _PARAVIRT)
    _ask(connected(session, key).shutdown())
    return ()


def reboot(session: Session, key: Key, flags: int) -> tuple[()]:
    """Ask the guest to reboot."""
    _only(flags, _ACPI | _PARAVIRT)
    _ask(connected(session, key).reboot())
    return ()


def _ask(there: bool) -> None:
    if not there:
        raise Failure(Code.FAILED, "the guest cannot be asked at the moment: try again")


def destroy(session: Session, key: Key, flags: int = 0) -> tuple[()]:
    """End a domain at once; returns when it has ended. Asked to be graceful, ask the guest."""
    _only(flags, _GRACEFUL)
    guest = found(session, key)
    domain = session.host.connect(guest)
    if flags & _GRACEFUL:
        domain.shutdown()
        session.host.wait_for_end(guest, _GRACEFUL_S)
    else:
        domain.destroy()
        session.host.wait_for_end(guest, _DESTROY_S)
    return ()


def inject_nmi(session: Session, key: Key, _flags: int) -> tuple[()]:
    """Send vCPU 0 an NMI."""
    connected(session, key).nmi()
    return ()


def open_console(session: Session, key: Key, device: str | None, flags: int) -> tuple[()]:
    """Open a stream to the console."""
    if device:
        raise Failure(Code.INVALID, f"the domain has one console, and no {device!r:.80}")
    session.open_console(connected(session, key), force=bool(flags & _CONSOLE_FORCE))
    return ()


# Devices.


def _impact(guest: Guest, flags: int) -> tuple[bool, bool]:
    """Whether a change is for the run, and whether it is for the definition."""
    if flags & (_LIVE | _CONFIG):
        return bool(flags & _LIVE), bool(flags & _CONFIG)
    return guest.id != -1, guest.id == -1


def attach(session: Session, key: Key, text: str, flags: int = _LIVE) -> tuple[()]:
    """Attach a device to a domain's run, its definition, or both."""
    _only(flags, _LIVE | _CONFIG)
    guest, spec = found(session, key), _device(text)
    live, config = _impact(guest, flags)
    if config:
        # Refused before the run is changed, if it is.
        _with(_defined(guest), spec)
    if live:
        domain = session.host.connect(guest)
        if isinstance(spec, DiskSpec):
            domain.attach_disk(spec)
        else:
            domain.attach_net(spec)
    if config:
        session.host.change(guest, lambda kept: _with(kept, spec))
    return ()


def _with(kept: DomainXml, spec: DiskSpec | NetSpec) -> DomainXml:
    config = kept.config
    try:
        if isinstance(spec, DiskSpec):
            return replace(kept, config=replace(config, disks=(*config.disks, spec)))
        return replace(kept, config=replace(config, nets=(*config.nets, spec)))
    except UsageError as error:
        raise Failure(Code.XML, str(error)) from None


def detach(session: Session, key: Key, text: str, flags: int = _LIVE) -> tuple[()]:
    """Detach a device from a domain's run, its definition, or both."""
    _only(flags, _LIVE | _CONFIG)
    guest, spec = found(session, key), _device(text)
    live, config = _impact(guest, flags)
    if config:
        _without(_defined(guest), guest, spec)
    if live and not _detach_live(session.host.connect(guest), guest, spec):
        raise Failure(Code.FAILED, f"the guest of {guest.name} still uses the device")
    if config:
        session.host.change(guest, lambda kept: _without(kept, guest, spec))
    return ()


def _without(kept: DomainXml, guest: Guest, spec: DiskSpec | NetSpec) -> DomainXml:
    config = kept.config
    disks = tuple(disk for disk in config.disks if not _is(disk, spec))
    nets = tuple(
        net for number, net in enumerate(config.nets) if not _is(_named(net, guest, number), spec)
    )
    if (disks, nets) == (config.disks, config.nets):
        raise Failure(Code.FAILED, f"the definition of {guest.name} has no such device")
    return replace(kept, config=replace(config, disks=disks, nets=nets))


def _detach_live(domain: RemoteDomain, guest: Guest, spec: DiskSpec | NetSpec) -> bool:
    if isinstance(spec, DiskSpec):
        return domain.detach_disk(spec.target)
    for one in domain.describe().interfaces:
        if _is(_named(one.spec, guest, one.number), spec):
            return domain.detach_net(one.number)
    raise Failure(Code.FAILED, f"the domain {guest.name} has no such network interface")


def _named(net: NetSpec, guest: Guest, number: int) -> NetSpec:
    return net if net.mac else replace(net, mac=generate_mac(guest.name, number))


def _is(device: DiskSpec | NetSpec, wanted: DiskSpec | NetSpec) -> bool:
    if isinstance(device, DiskSpec) and isinstance(wanted, DiskSpec):
        return device.number == wanted.number
    if isinstance(device, NetSpec) and isinstance(wanted, NetSpec):
        return device.mac == wanted.mac
    return False


def _device(text: str) -> DiskSpec | NetSpec:
    try:
        return read_device(text)
    except UnsupportedElement as error:
        raise Failure(Code.UNSUPPORTED, str(error)) from None
    except UsageError as error:
        raise Failure(Code.XML, str(error)) from None


def set_vcpus(session: Session, key: Key, count: int, flags: int = _LIVE) -> tuple[()]:
    """Have a running guest use that many vCPUs, or change a domain's definition, or both."""
    _only(flags, _LIVE | _CONFIG | _MAXIMUM)
    field = "max_vcpus" if flags & _MAXIMUM else "vcpus"
    return _change(session, key, flags, field, count, ask_for_vcpus)


def set_memory(session: Session, key: Key, kib: int, flags: int = _LIVE) -> tuple[()]:
    """Have a running guest grow or shrink, or change the memory of a domain's definition, or
    both."""
    _only(flags, _LIVE | _CONFIG | _MAXIMUM)
    field = "max_memory" if flags & _MAXIMUM else "memory"
    return _change(session, key, flags, field, kib << 10 & ~0xFFF, ask_for_memory)


def _change(
    session: Session,
    key: Key,
    flags: int,
    field: str,
    value: int,
    ask: Callable[[Description, int], None],
) -> tuple[()]:
    guest = found(session, key)
    live, config = _impact(guest, flags)

    def changed(kept: DomainXml) -> DomainXml:
        try:
            fields: dict[str, Any] = {field: value}
            return replace(kept, config=replace(kept.config, **fields))
        except UsageError as error:
            raise Failure(Code.INVALID, str(error)) from None

    if live:
        if flags & _MAXIMUM:
            raise Failure(Code.INVALID, "the maximum of a running domain is fixed: --config")
        if config:
            # Refused before the run is changed, if it is.
            changed(_defined(guest))
        try:
            ask(session.host.connect(guest).describe(), value)
        except UsageError as error:
            raise Failure(Code.INVALID, str(error)) from None
    if config:
        session.host.change(guest, changed)
    return ()
