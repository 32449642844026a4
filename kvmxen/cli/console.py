"""kvmxen console: a person at the console of a running domain."""

from __future__ import annotations

import os
import select
import sys

import click

from kvmxen.backends.terminal import ESCAPE, ConsoleStream, raw_terminal
from kvmxen.cli.named import domain, domain_name
from kvmxen.streams import say

_CHUNK = 2048
# The most that a person types and the guest does not take, in bytes; more is lost.
_TYPED_AHEAD = 64 << 10


@click.command()
@domain_name
@click.option("--read-only", is_flag=True, help="Only watch.")
@click.option("--force", is_flag=True, help="Disconnect the one who types at it now.")
def console(name: str, read_only: bool, force: bool) -> None:
    """Show the console of the domain NAME, from its last 64 KiB on, and type at it.

    Any number of people can watch; one at a time can type, the first who came. Ctrl-] leaves the
    console; the domain continues.
    """
    stream = domain(name).open_console(writes=not read_only, force=force)
    if not read_only and not stream.writes:
        say("somebody else types at this console: watching; --force takes it")
    attach(stream, name, read_only=read_only)


def attach(stream: ConsoleStream, name: str, *, read_only: bool = False) -> None:
    """Connect this process's terminal with the console of the domain `name`, until either ends."""
    with raw_terminal():
        if _copy(stream.fileno(), is_tty=os.isatty(0), read_only=read_only):
            say(f"the console of {name} has ended")


def _copy(connected: int, *, is_tty: bool, read_only: bool) -> bool:
    """Copy both ways; returns whether the other end hung up first."""
    typed = bytearray()
    listening = is_tty or not read_only
    while True:
        poll = select.poll()
        poll.register(connected, select.POLLIN | (select.POLLOUT if typed else 0))
        # The escape key works even if the guest takes no input; a pipe then waits.
        if listening and (is_tty or not typed):
            poll.register(0, select.POLLIN)
        for fd, what in poll.poll():
            if fd == 0:
                data = os.read(0, _CHUNK)
                listening = bool(data)
                kept, escape, _ = data.partition(ESCAPE) if is_tty else (data, b"", b"")
                if escape:
                    return False
                if not read_only and len(typed) < _TYPED_AHEAD:
                    typed += kept
            elif what & select.POLLOUT and typed:
                del typed[: os.write(connected, typed[:_CHUNK])]
            elif not (data := os.read(connected, _CHUNK)):
                return True
            else:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
