"""What a domain says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from kvmxen.config import Config, DiskSpec
from kvmxen.config.net import NetSpec
from kvmxen.domain.state import State


@dataclass(frozen=True)
class Interface:
    """A network interface and its number in the guest."""

    number: int
    spec: NetSpec


@dataclass(frozen=True)
class Description:
    """A domain: who it is, what it was made from, what it has now.

    `began` is the time of its start, in seconds as time.time() counts them; `console` is the path
    of the console's terminal, if it has one; `memory` is in bytes.
    """

    id: int
    uuid: UUID
    pid: int
    began: float
    state: State
    console: str
    memory: int
    vcpus: int
    config: Config
    disks: tuple[DiskSpec, ...]
    interfaces: tuple[Interface, ...]
