"""The program kvmxen-xl, also by the name xl: Xen's command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from kvmxen.cli.main import Commands, run
from kvmxen.errors import KvmxenError
from kvmxen.front.xl.commands import COMMANDS, MISSING


class _Commands(Commands):
    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in MISSING:
            raise KvmxenError(
                f"xl's command {name} is missing here: xl --help lists those that work"
            )
        return super().get_command(ctx, name)


@click.group(
    cls=_Commands,
    package="kvmxen.front.xl",
    table=COMMANDS,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("-v", "verbose", is_flag=True, help="Accepted for scripts' sake, as are -f and -t.")
@click.option("-f", "force", is_flag=True, hidden=True)
@click.option("-t", "-T", "progress", is_flag=True, hidden=True)
def xl(verbose: bool, force: bool, progress: bool) -> None:
    """Xen's command line for the domains of kvmxen."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line of xl; returns 0 or 1, as xl does."""
    from kvmxen.cli.console import attach

    words = sys.argv[1:] if arguments is None else arguments
    return int(run(xl, words, "xl", obj=attach) != 0)
