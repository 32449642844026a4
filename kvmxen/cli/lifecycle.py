"""kvmxen shutdown, reboot, pause and the like: what a person does to running domains."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from kvmxen.cli.named import domain, domain_name, running_names
from kvmxen.errors import KvmxenError

_F = TypeVar("_F", bound=Callable[..., Any])


def _command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command for one domain or more."""

    def made(function: Callable[..., None]) -> click.Command:
        return click.command(name)(
            click.argument("name", nargs=-1, required=True, shell_complete=running_names)(function)
        )

    return made


def _waiting(function: _F) -> _F:
    """Give the command --no-wait and --timeout."""
    function = click.option("--no-wait", is_flag=True, help="Do not wait until it is so.")(function)
    return click.option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(0, min_open=True),
        help="Fail if it is not so after that time.",
    )(function)


@_command("shutdown")
@_waiting
def shutdown(name: tuple[str, ...], timeout: float | None, no_wait: bool) -> None:
    """Ask the guests of the domains NAME to power off; wait until they have.

    A domain that its guest does not end continues: see destroy.
    """
    domains = [domain(word) for word in name]
    for one in domains:
        if not one.shutdown():
            raise KvmxenError(
                f"the domain {one.name} has no guest to ask; try again, or destroy it"
            )
    if not no_wait:
        _each(
            (one.name, lambda one=one: one.wait(timeout) is not None)  # type: ignore[misc]
            for one in domains
        )


@_command("reboot")
@_waiting
def reboot(name: tuple[str, ...], timeout: float | None, no_wait: bool) -> None:
    """Ask the guests of the domains NAME to reboot; wait until they have shut down for it."""
    from kvmxen.domain.events import Event

    domains = [domain(word) for word in name]
    streams = [one.events() for one in domains]
    for one in domains:
        if not one.reboot():
            raise KvmxenError(
                f"the domain {one.name} has no guest to ask; try again, or destroy it"
            )
    over = (Event.REBOOTED, Event.PRESERVED, Event.ENDED)
    if not no_wait:
        _each(
            (one.name, lambda stream=stream: stream.wait(over, timeout) is not None)  # type: ignore[misc]
            for one, stream in zip(domains, streams, strict=True)
        )


@_command("destroy")
def destroy(name: tuple[str, ...]) -> None:
    """End the domains NAME at once, and wait until they have ended."""
    domains = [domain(word) for word in name]
    for one in domains:
        one.destroy()
    for one in domains:
        one.wait()


@_command("pause")
def pause(name: tuple[str, ...]) -> None:
    """Stop the vCPUs of the domains NAME; their devices and their xenstore continue."""
    for word in name:
        domain(word).pause()


@_command("unpause")
def unpause(name: tuple[str, ...]) -> None:
    """Let the vCPUs of the domains NAME run again."""
    for word in name:
        domain(word).unpause()


@click.command()
@domain_name
@click.argument("key")
def sysrq(name: str, key: str) -> None:
    """Do what the magic SysRq KEY does in the Linux guest of the domain NAME; h lists the keys."""
    domain(name).sysrq(key)


@click.command()
@domain_name
def nmi(name: str) -> None:
    """Send a non-maskable interrupt to vCPU 0 of the domain NAME."""
    domain(name).nmi()


def _each(waits: Iterable[tuple[str, Callable[[], bool]]]) -> None:
    """Wait for all of `waits` at once; raises KvmxenError that names those that took too long."""
    late: list[str] = []
    failures: list[KvmxenError] = []

    def wait(name: str, done: Callable[[], bool]) -> None:
        try:
            if not done():
                late.append(name)
        except KvmxenError as error:
            failures.append(error)

    threads = [threading.Thread(target=wait, args=one, daemon=True) for one in waits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if late:
        raise KvmxenError(f"still running: {', '.join(late)}; kvmxen destroy ends them at once")
    for failure in failures:
        raise failure
