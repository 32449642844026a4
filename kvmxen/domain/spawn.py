"""Starts a domain in a process of its own, which outlives the one that asked for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kvmxen.config import Config, ConsoleSpec
from kvmxen.config.codec import encode
from kvmxen.domain.rundir import running, runtime_root, state_directory
from kvmxen.errors import KvmxenError, UsageError


@dataclass(frozen=True)
class Launch:
    """What the new process is to do; see spawn()."""

    config: Config
    paused: bool = False
    timeout: float | None = None
    patience: float | None = None
    result: Path | None = None


def spawn(
    config: Config,
    *,
    paused: bool = False,
    timeout: float | None = None,
    patience: float | None = None,
    result: Path | None = None,
) -> None:
    """Start a domain in the background; returns when every backend has opened its files.

    Its console, unless it has a place, is there for open_console(). kvmxen's messages go to
    log_path(). `timeout`, `patience` and `result` are those of `kvmxen boot --timeout`,
    `--shutdown-timeout` (in seconds) and `--result`. Raises KvmxenError if it could not be started.
    """
    if config.console.kind in ("stdio", "program"):
        config = replace(config, console=ConsoleSpec("none"))
    launch = Launch(config, paused, timeout, patience, result)
    if any(one.name == config.name for one in running(runtime_root())):
        # Said here too, so that the log of the one that runs stays as it is.
        raise KvmxenError(
            f"a domain named {config.name} is already running: stop it, or give another --name"
        )
    answer, ready = os.pipe()
    with open(answer, "rb") as answered:  # noqa: PTH123 - a descriptor
        try:
            with _open_log(config.name) as log:
                # The process forks once more, so that it is nobody's child, and exits.
                subprocess.run(
                    [sys.executable, "-P", "-m", "kvmxen.cli.detached", str(ready), config.name],
                    input=json.dumps(encode(launch)).encode(),
                    stdout=log,
                    stderr=log,
                    pass_fds=[ready],
                    start_new_session=True,
                    cwd="/",
                    check=False,
                )
        except OSError as error:
            raise KvmxenError(f"cannot start a process: {error.strerror}") from error
        finally:
            os.close(ready)
        _check(config.name, answered.read())


def _check(name: str, answer: bytes) -> None:
    try:
        told: Any = json.loads(answer)
    except ValueError:
        raise KvmxenError(
            f"the process of the domain {name} ended before it was ready; see {log_path(name)}"
        ) from None
    match told:
        case {"error": str(sentence), "status": int(status)}:
            error = UsageError if status == UsageError.exit_status else KvmxenError
            raise error(sentence)


def log_path(name: str) -> Path:
    """The file with kvmxen's messages about the domain `name`, if it was started by spawn().

    The file before it has the suffix .1.
    """
    return state_directory() / "log" / f"{name}.log"


def _open_log(name: str) -> Any:
    path = log_path(name)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            path.replace(path.with_name(f"{path.name}.1"))
        return path.open("xb")
    except OSError as error:
        raise KvmxenError(
            f"cannot create {path} ({error.strerror}): set XDG_STATE_HOME to a folder that you can "
            "write to"
        ) from error
