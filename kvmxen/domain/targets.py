"""How much memory and how many vCPUs a running guest is asked to have, by its xenstore."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

from kvmxen.domain.description import Description
from kvmxen.domain.rundir import runtime_root
from kvmxen.errors import KvmxenError, UsageError
from kvmxen.xen.abi.xen import DOMID_GUEST
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.paths import home
from kvmxen.xenstore.server.client import Client


@contextmanager
def store(name: str) -> Iterator[Client]:
    """The xenstore of the domain `name`; what it refuses becomes a KvmxenError."""
    with closing(Client(runtime_root(), name)) as client:
        try:
            yield client
        except XenstoreError as error:
            raise KvmxenError(
                f"the xenstore of {name} refuses it: {os.strerror(error.errno)}"
            ) from None


def node(path: str) -> str:
    """The path of a node of the guest's own."""
    return f"{home(DOMID_GUEST)}/{path}"


def ask_for_memory(domain: Description, size: int) -> None:
    """Have the guest's balloon grow or shrink until it has `size` bytes; does not wait.

    Raises UsageError if the domain cannot have as much.
    """
    most = domain.config.max_memory
    if not 0 < size <= most:
        raise UsageError(
            f"{domain.config.name} can have 1 to {most >> 20} MiB (its maxmem), "
            f"not {size >> 20} MiB"
        )
    with store(domain.config.name) as client:
        client.write(node("memory/target"), str(size >> 10).encode())


def ask_for_vcpus(domain: Description, count: int) -> None:
    """Have the guest use the first `count` of its vCPUs; does not wait.

    Raises UsageError if the domain has fewer.
    """
    most = domain.config.max_vcpus
    if not 0 < count <= most:
        raise UsageError(
            f"{domain.config.name} can have 1 to {most} vCPUs (its maxvcpus), not {count}"
        )
    with store(domain.config.name) as client, client.transaction():
        for number in range(most):
            state = b"online" if number < count else b"offline"
            client.write(node(f"cpu/{number}/availability"), state)
