"""The running domain that a person means by a word: its name, its id or its UUID."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from kvmxen.errors import KvmxenError, UsageError

if TYPE_CHECKING:
    from kvmxen.domain.remote import RemoteDomain


def name_of(word: str) -> str:
    """The name of the domain `word`; raises UsageError if it cannot be a domain's."""
    from kvmxen.config.domain import is_name
    from kvmxen.domain import rundir

    if not is_name(word):
        raise UsageError(f"{word!r} cannot be the name of a domain (see kvmxen list)")
    return rundir.name_of(rundir.runtime_root(), word)


def domain(word: str) -> RemoteDomain:
    """The domain `word`; raises KvmxenError if none such runs."""
    from kvmxen.domain.remote import connect

    return connect(name_of(word))


def running_names(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """The names of the running domains that begin as a person has `begun` to type, for a shell."""
    from kvmxen.domain import rundir

    with suppress(KvmxenError, OSError):
        names = (one.name for one in rundir.running(rundir.runtime_root()))
        return [name for name in names if name.startswith(begun)]
    return []


# The parameter `name` of a command for one domain.
domain_name = click.argument("name", shell_complete=running_names)
