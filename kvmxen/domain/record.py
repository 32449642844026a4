"""What is written of a domain: who it is while it runs, and afterwards how it ended."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from kvmxen.config.codec import CodecError, decode, encode
from kvmxen.errors import UsageError

_IDENTITY = "domain.json"
# The folder of the records; no domain's name begins with a dot.
_ENDED = ".ended"
# The number of records that are kept.
_KEPT = 256

_T = TypeVar("_T")


@dataclass(frozen=True)
class Identity:
    """A running domain: its `id` is unique among those of one runtime folder, and never reused.

    `began` is the time of its start, in seconds as time.time() counts them.
    """

    name: str
    id: int
    uuid: UUID
    pid: int
    began: float


@dataclass(frozen=True)
class Told:
    """An event of a domain, as its listeners were told of it: see Happening (events.py)."""

    event: str
    at: float
    end: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Record:
    """How a domain ended, and when.

    `end` is poweroff, reboot, crash, destroyed, failed (kvmxen could not go on) or killed (its
    process ended before it could say more). See Ending for `reason` and `report`. `events` are the
    last ones before the end.
    """

    domain: Identity
    at: float
    end: str
    reason: str = ""
    report: str = ""
    events: tuple[Told, ...] = ()


def write_identity(folder: Path, identity: Identity) -> None:
    """Write who the domain of the run directory `folder` is; raises OSError."""
    (folder / _IDENTITY).write_text(json.dumps(encode(identity)))


def read_identity(folder: Path) -> Identity | None:
    """Who the domain of the run directory `folder` is; None if it does not say so (yet)."""
    return _read(Identity, folder / _IDENTITY)


def write_record(root: Path, record: Record) -> None:
    """Keep `record` in the runtime folder `root`, instead of the last one of that name."""
    folder = root / _ENDED
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{record.domain.name}.json"
    new = path.with_suffix(".new")
    new.write_text(json.dumps(encode(record)))
    new.replace(path)
    paths = sorted(folder.glob("*.json"), key=_age)
    for old in paths[:-_KEPT]:
        old.unlink(missing_ok=True)


def read_record(root: Path, name: str) -> Record | None:
    """How the last domain `name` ended; None if nothing is known of one."""
    return _read(Record, root / _ENDED / f"{name}.json")


def records(root: Path) -> list[Record]:
    """How the last domains of each name ended, the latest last."""
    found = (_read(Record, path) for path in (root / _ENDED).glob("*.json"))
    return sorted((record for record in found if record), key=lambda record: record.at)


def _read(kind: type[_T], path: Path) -> _T | None:
    with suppress(OSError, ValueError, RecursionError, CodecError, UsageError):
        value: _T = decode(kind, json.loads(path.read_text()), path.name)
        return value
    return None


def _age(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
