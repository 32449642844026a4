"""kvmxen xenstore: reads, changes and watches the nodes of a running domain."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import click

from kvmxen.cli.named import domain_name, name_of
from kvmxen.cli.status import XENSTORE_STATUSES
from kvmxen.errors import KvmxenError, UsageError

if TYPE_CHECKING:
    from kvmxen.xenstore.server.client import Client

_ATTEMPTS = 100


class _NoNode(KvmxenError):
    exit_status = 3


class _Refused(KvmxenError):
    exit_status = 4


@click.group(epilog=XENSTORE_STATUSES)
def xenstore() -> None:
    """Read, change and watch the xenstore of the running domain NAME.

    A PATH that does not begin with / is below the domain's own node, /local/domain/1.
    """


@xenstore.command(short_help="Print nodes and their values as a tree.")
@domain_name
@click.argument("path", default="")
def ls(name: str, path: str) -> None:
    """Print the nodes below PATH as a tree; by default, all of the domain's own."""
    with _connected(name) as client:
        top = _absolute(path)
        with _explained(top):
            names = client.directory(top)
        _print_below(client, top, names)


@xenstore.command(short_help="Print the values of nodes.")
@domain_name
@click.argument("path", nargs=-1, required=True)
def read(name: str, path: tuple[str, ...]) -> None:
    """Print the value of each PATH on a line of its own, all but printable ASCII escaped."""
    with _connected(name) as client:
        for node in map(_absolute, path):
            with _explained(node):
                click.echo(_printable(client.read(node)))


@xenstore.command(
    short_help="Set the values of nodes.",
    context_settings={"ignore_unknown_options": True},
)
@domain_name
@click.argument("pairs", metavar="PATH VALUE [PATH VALUE]...", nargs=-1, required=True)
def write(name: str, pairs: tuple[str, ...]) -> None:
    """Set each PATH to the VALUE that follows it, in one transaction.

    Missing nodes are created.
    """
    if len(pairs) % 2:
        raise UsageError("each PATH needs a VALUE (see kvmxen xenstore write --help)")
    values = [(_absolute(p), os.fsencode(v)) for p, v in zip(pairs[::2], pairs[1::2], strict=True)]
    with _connected(name) as client:

        def change() -> None:
            for node, value in values:
                with _explained(node):
                    client.write(node, value)

        _as_one(client, change)


@xenstore.command(short_help="Remove nodes.")
@domain_name
@click.argument("path", nargs=-1, required=True)
def rm(name: str, path: tuple[str, ...]) -> None:
    """Remove each PATH and everything below it, in one transaction."""
    if "/" in path:
        raise UsageError("the root cannot be removed: name what is below it")
    with _connected(name) as client:

        def change() -> None:
            for node in map(_absolute, path):
                with _explained(node):
                    # The store reports no error if there is nothing to remove.
                    client.read(node)
                    client.rm(node)

        _as_one(client, change)


@xenstore.command(short_help="Print the paths that change.")
@click.option("-n", "--number", metavar="N", type=click.IntRange(1), help="Exit after N lines.")
@domain_name
@click.argument("path", nargs=-1, required=True)
def watch(name: str, path: tuple[str, ...], number: int | None) -> None:
    """Print each PATH at once, then every path at or below it that changes, one a line.

    When the domain ends, so does the command, with exit status 1.
    """
    with _connected(name) as client:
        for node in map(_absolute, path):
            with _explained(node):
                client.watch(node)
        for count, changed in enumerate(client.changes(), 1):
            click.echo(changed)
            if count == number:
                return


@contextmanager
def _connected(name: str) -> Iterator[Client]:
    from kvmxen.domain.rundir import runtime_root
    from kvmxen.xenstore.server.client import Client

    with closing(Client(runtime_root(), name_of(name))) as client:
        yield client


@contextmanager
def _explained(node: str) -> Iterator[None]:
    """Turn the store's refusal of `node` into words."""
    from kvmxen.xenstore.errors import XenstoreError

    try:
        yield
    except XenstoreError as error:
        match error.errno:
            case errno.ENOENT:
                raise _NoNode(f"there is no node {node}") from None
            case errno.EINVAL:
                raise UsageError(
                    f"{node} is not a xenstore path: give names of letters, digits and - _ @, "
                    "separated by single slashes"
                ) from None
            case errno.E2BIG:
                raise _Refused(f"{node} and its value are longer than 4096 bytes") from None
            case _:
                why = os.strerror(error.errno)
                raise _Refused(f"the store refuses it for {node}: {why}") from None


def _as_one(client: Client, change: Callable[[], None]) -> None:
    """Do `change` in a transaction; repeat it if others' changes came in between."""
    from kvmxen.xenstore.errors import XenstoreError

    for _ in range(_ATTEMPTS):
        try:
            with client.transaction():
                change()
            return
        except XenstoreError as error:
            if error.errno != errno.EAGAIN:
                raise _Refused(f"the store refuses it: {os.strerror(error.errno)}") from None
    raise KvmxenError("other clients keep changing the same nodes: try again")


def _absolute(path: str) -> str:
    from kvmxen.xen.abi.xen import DOMID_GUEST
    from kvmxen.xenstore.paths import home

    if path.startswith(("/", "@")):
        return path
    return f"{home(DOMID_GUEST)}/{path}" if path else home(DOMID_GUEST)


def _print_below(client: Client, top: str, names: list[str]) -> None:
    from kvmxen.xenstore.errors import XenstoreError

    # Not by recursion: a path may have more names than Python allows nested calls.
    waiting = [(f"{top.rstrip('/')}/{name}", 0) for name in reversed(names)]
    while waiting:
        node, depth = waiting.pop()
        try:
            value, below = client.read(node), client.directory(node)
        except XenstoreError as error:
            # The node may be gone by now.
            if error.errno != errno.ENOENT:
                raise _Refused(f"the store refuses {node}: {os.strerror(error.errno)}") from None
            continue
        click.echo(f'{" " * depth}{node.rpartition("/")[2]} = "{_printable(value)}"')
        waiting += [(f"{node}/{name}", depth + 1) for name in reversed(below)]


def _printable(value: bytes) -> str:
    """`value` as xenstore-read and xenstore-ls print it, so that no value controls the terminal."""
    names = {0x5C: "\\\\", 0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}
    return "".join(
        names.get(byte)
        or (chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}" if byte < 8 else f"\\x{byte:02x}")
        for byte in value
    )
