"""Folders of the host: one for each running domain, and the user's cache."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from uuid import UUID, uuid4

from kvmxen.domain.record import (
    Identity,
    Record,
    read_identity,
    read_record,
    write_identity,
    write_record,
)
from kvmxen.errors import KvmxenError

# Only a folder that contains this file is a domain's, and may be taken over or removed.
_LOCK = "kvmxen.pid"
_LAST_ID = ".last-id"


def cache_directory() -> Path | None:
    """$XDG_CACHE_HOME/kvmxen, else ~/.cache/kvmxen, or None for a user without a home.

    It need not exist. A relative path in the variable is ignored, as the XDG base directory
    specification asks.
    """
    return _xdg("XDG_CACHE_HOME", "~/.cache")


def configuration_directory() -> Path:
    """$XDG_CONFIG_HOME/kvmxen, else ~/.config/kvmxen; it need not exist.

    Raises KvmxenError for a user without a home.
    """
    if folder := _xdg("XDG_CONFIG_HOME", "~/.config"):
        return folder
    raise KvmxenError("this user has no home: set XDG_CONFIG_HOME to a folder")


def _xdg(variable: str, default: str) -> Path | None:
    """kvmxen's folder in the one that an environment variable names, else in `default`."""
    given = Path(os.environ.get(variable, ""))
    if given.is_absolute():
        return given / "kvmxen"
    try:
        return Path(default).expanduser() / "kvmxen"
    except RuntimeError:
        return None


def state_directory() -> Path:
    """$XDG_STATE_HOME/kvmxen, else ~/.local/state/kvmxen; for a user without a home, a folder of
    the runtime folder. It need not exist.
    """
    return _xdg("XDG_STATE_HOME", "~/.local/state") or runtime_root() / ".state"


def runtime_root() -> Path:
    """The folder that holds the domains' folders; it is created if it does not exist.

    $KVMXEN_RUNTIME_DIR, else $XDG_RUNTIME_DIR/kvmxen, else /run/kvmxen, else one of the user's
    own under the temporary directory. Raises KvmxenError if the first or the last is unusable.
    """
    if given := os.environ.get("KVMXEN_RUNTIME_DIR"):
        return _usable(Path(given).absolute())
    # XDG_RUNTIME_DIR may belong to another user, because su keeps it.
    xdg = os.environ.get("XDG_RUNTIME_DIR")
    for parent in (xdg, "/run"):
        if parent and os.access(parent, os.W_OK) and _owned(Path(parent)):
            return _usable(Path(parent, "kvmxen"))
    import tempfile

    return _usable(Path(tempfile.gettempdir(), f"kvmxen-{os.geteuid()}"))


def _owned(path: Path) -> bool:
    return path.stat().st_uid == os.geteuid()


def _usable(root: Path) -> Path:
    """Create `root`, with its parents, for its owner alone; check that nobody else owns it."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = root.lstat()
    except OSError as error:
        raise KvmxenError(
            f"cannot create the folder {root} ({error.strerror}): "
            "set KVMXEN_RUNTIME_DIR to a folder that you can write to"
        ) from error
    others = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or others:
        raise KvmxenError(
            f"{root} is not a folder that only you can write to: "
            "set KVMXEN_RUNTIME_DIR to one that is"
        )
    return root


class RunDirectory:
    """The folder of the domain `name`, for the time of the context, in which it has an `identity`.

    It is locked, so that two domains of one name or one UUID cannot run at once. A process that
    dies without removing its folder leaves it unlocked, and the next process removes it.
    """

    def __init__(self, name: str, root: Path | None = None, uuid: UUID | None = None) -> None:
        self.name = name
        self.uuid = uuid or uuid4()
        self.root = root or runtime_root()
        self.path = self.root / name
        self._lock: int | None = None
        self._owner = os.getpid()

    def __enter__(self) -> RunDirectory:
        try:
            with _held(self.root):
                sweep(self.root)
                self._check_uuid()
                # A process that ended before it had its lock may have left an empty folder.
                with suppress(OSError):
                    self.path.rmdir()
                self._make()
                atexit.register(self.close)
                (self.path / _LOCK).write_text(f"{self._owner}\n")
                self.identity = Identity(
                    self.name, _next_id(self.root), self.uuid, self._owner, time.time()
                )
                write_identity(self.path, self.identity)
        except FileExistsError:
            raise KvmxenError(self._taken()) from None
        except OSError as error:
            self.close()
            raise KvmxenError(f"cannot use the folder {self.path}: {error.strerror}") from error
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def announce(self) -> None:
        """Show those who watch the root that the domain can be reached (domain/watch.py)."""
        os.utime(self.path)

    def close(self) -> None:
        """Remove the folder; does nothing if it is removed already, or in a forked child."""
        if self._lock is None or os.getpid() != self._owner:
            return
        with _held(self.root):
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
        self._lock = None
        atexit.unregister(self.close)

    def _make(self) -> None:
        """Create the folder and lock it; an interruption leaves nothing behind.

        Raises FileExistsError if it exists.
        """
        if os.path.lexists(self.path):
            raise FileExistsError
        try:
            self.path.mkdir(mode=0o700)
            self._lock = _lock_file(self.path)
        except BaseException:
            # A signal handler's exception can arrive before either result is stored.
            with suppress(OSError):
                (self.path / _LOCK).unlink(missing_ok=True)
                self.path.rmdir()
            raise

    def _check_uuid(self) -> None:
        for identity in _identities(self.root):
            if identity.uuid == self.uuid and identity.name != self.name:
                raise KvmxenError(
                    f"the running domain {identity.name} has the UUID {self.uuid}: stop it, or "
                    "give another --uuid"
                )

    def _taken(self) -> str:
        try:
            pid = (self.path / _LOCK).read_text().strip()
        except OSError:
            return f"{self.path} is in the way: remove it, or give another --name"
        return (
            f"a domain named {self.name} is already running (process {pid}): "
            "stop it, or give another --name"
        )


def running(root: Path) -> list[Identity]:
    """The domains that run in `root`, in the order of their start; those that died are recorded."""
    if not root.is_dir():
        return []
    with _held(root):
        sweep(root)
        return sorted(_identities(root), key=lambda identity: identity.id)


def name_of(root: Path, word: str) -> str:
    """The name of the running domain that `word`, a name, an id or a UUID, stands for.

    A word that stands for none is returned as it is.
    """
    domains = running(root)
    for key in (
        lambda one: one.name,
        lambda one: str(one.id),
        lambda one: str(one.uuid),
    ):
        for identity in domains:
            if key(identity) == word:
                return identity.name
    return word


def _identities(root: Path) -> Iterator[Identity]:
    for folder in root.iterdir():
        if (folder / _LOCK).is_file() and (identity := read_identity(folder)):
            yield identity


def sweep(root: Path) -> None:
    """Remove the folders of dead processes, and record their ends; the root's lock must be held."""
    for folder in root.iterdir():
        if not (folder / _LOCK).is_file():
            continue
        lock = _lock_file(folder)
        if lock is None:
            continue
        identity = read_identity(folder)
        past = read_record(root, folder.name)
        if identity and not (past and past.domain == identity):
            # Only the record is lost if it cannot be written.
            with suppress(OSError):
                write_record(root, Record(identity, time.time(), "killed"))
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _next_id(root: Path) -> int:
    """An id that no domain of `root` has had; the root's lock must be held."""
    path = root / _LAST_ID
    try:
        last = int(path.read_text())
    except (OSError, ValueError):
        last = max((identity.id for identity in _identities(root)), default=0)
    new = path.with_suffix(".new")
    new.write_text(f"{last + 1}\n")
    new.replace(path)
    return last + 1


@contextmanager
def _held(root: Path) -> Iterator[None]:
    """Hold the root's lock, which guards creation and removal: nobody locks a removed folder."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock_file(folder: Path) -> int | None:
    """A locked descriptor of the folder's pid file, or None if another process holds the lock."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    descriptor = os.open(folder / _LOCK, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
