"""The client's side of a domain's control socket."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvmxen.domain.control.protocol import (
    MAX_REPLY,
    SOCKET,
    ProtocolError,
    parse_reply,
    read_line,
    write_line,
)
from kvmxen.domain.control.requests import Request, pack
from kvmxen.domain.record import read_identity
from kvmxen.errors import KvmxenError
from kvmxen.xenstore.server.listener import connect


class Gone(KvmxenError):
    """There is no such domain, or none any more."""


def ask(
    root: Path,
    name: str,
    request: Request,
    *,
    number: int | None = None,
    descriptors: Sequence[int] = (),
    patience: float | None = None,
) -> Any:
    """Send `request` to the domain `name`, whose run directory is in `root`; returns its answer.

    Raises Gone if there is no such domain, or if its id is not `number`, KvmxenError if the request
    failed, or if no answer comes in `patience` seconds.
    """
    try:
        connected = connect(root / name / SOCKET)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        raise Gone(
            f"no domain named {name} is running; give the --name that it was started with"
        ) from None
    except OSError as error:
        raise KvmxenError(
            f"cannot reach the domain {name}: {error.strerror}; "
            "only root and the user who started it may"
        ) from None
    with connected:
        if number is not None:
            # Read when the socket is connected, which is then this domain's too.
            identity = read_identity(root / name)
            if identity is None or identity.id != number:
                raise Gone(f"the domain {name} has ended; another has its name")
        try:
            connected.settimeout(patience)
            write_line(connected, pack(request), descriptors)
            return parse_reply(read_line(connected, MAX_REPLY))
        except TimeoutError:
            raise KvmxenError(f"the domain {name} does not answer") from None
        except (OSError, ProtocolError):
            raise Gone(f"the domain {name} ended before it answered") from None
