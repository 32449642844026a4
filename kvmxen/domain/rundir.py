"""Folders of the host: one for each running domain, and the user's cache."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from kvmxen.errors import KvmxenError

# Only a folder that contains this file is a domain's, and may be taken over or removed.
_LOCK = "kvmxen.pid"


def cache_directory() -> Path | None:
    """$XDG_CACHE_HOME/kvmxen, else ~/.cache/kvmxen, or None for a user without a home.

    It need not exist. A relative path in the variable is ignored, as the XDG base directory
    specification asks.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given / "kvmxen"
    try:
        return Path("~/.cache/kvmxen").expanduser()
    except RuntimeError:
        return None


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
    """The folder of the domain `name`, for the time of the context.

    It is locked, so that two domains of one name cannot run at once. A process that dies without
    removing its folder leaves it unlocked, and the next process removes it.
    """

    def __init__(self, name: str, root: Path | None = None) -> None:
        self.name = name
        self.root = root or runtime_root()
        self.path = self.root / name
        self._lock: int | None = None
        self._owner = os.getpid()

    def __enter__(self) -> RunDirectory:
        try:
            with _held(self.root):
                self._sweep()
                # A process that ended before it had its lock may have left an empty folder.
                with suppress(OSError):
                    self.path.rmdir()
                self._make()
                atexit.register(self.close)
            (self.path / _LOCK).write_text(f"{self._owner}\n")
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

    def _sweep(self) -> None:
        """Remove the folders of dead processes."""
        for folder in self.root.iterdir():
            if not (folder / _LOCK).is_file():
                continue
            lock = _lock_file(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)

    def _taken(self) -> str:
        try:
            pid = (self.path / _LOCK).read_text().strip()
        except OSError:
            return f"{self.path} is in the way: remove it, or give another --name"
        return (
            f"a domain named {self.name} is already running (process {pid}): "
            "stop it, or give another --name"
        )


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
