"""The kvmxen command: its subcommands, and the reports of their errors."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from kvmxen import __version__
from kvmxen.cli.status import FAILED, INTERRUPTED, STATUSES, USAGE
from kvmxen.errors import FieldError, KvmxenError, printable, shortage
from kvmxen.streams import say, settle

# The module of each command, and what the list of commands says of it.
_COMMANDS = {
    "block-attach": ("hotplug", "Attach a disk to a running domain."),
    "block-detach": ("hotplug", "Detach a disk from a running domain."),
    "block-resize": ("hotplug", "Tell a running domain that a disk has grown."),
    "boot": ("boot", "Boot a kernel as a Xen guest."),
    "console": ("console", "Show a running domain's console, and type at it."),
    "convert": ("convert", "Print a domain's configuration in another format."),
    "create": ("create", "Start a domain from a configuration file of xl."),
    "destroy": ("lifecycle", "End a domain at once."),
    "doctor": ("doctor", "Report what this host's /dev/kvm can do."),
    "events": ("events", "Print a line for each event of domains."),
    "info": ("info", "Tell what a domain has, or how it ended."),
    "list": ("listing", "List the running domains."),
    "network-attach": ("hotplug", "Attach a network interface to a running domain."),
    "network-detach": ("hotplug", "Detach a network interface from a running domain."),
    "nmi": ("lifecycle", "Send a non-maskable interrupt to a domain."),
    "pause": ("lifecycle", "Stop the vCPUs of a domain."),
    "reboot": ("lifecycle", "Ask a guest to reboot."),
    "server": ("server", "Serve virsh and other clients of libvirt."),
    "shutdown": ("lifecycle", "Ask a guest to power off."),
    "sysrq": ("lifecycle", "Send a magic SysRq key to a Linux guest."),
    "top": ("top", "Show the activity of a running domain's devices."),
    "unpause": ("lifecycle", "Let the vCPUs of a domain run again."),
    "xenstore": ("xenstore", "Read, change and watch a domain's xenstore."),
}


class Commands(click.Group):
    """The commands of `table`: the module of each in `package`, and what the list says of it.

    Each is imported when it is used: --help needs none of them, a boot one.
    """

    def __init__(
        self, *arguments: Any, package: str, table: Mapping[str, tuple[str, str]], **more: Any
    ) -> None:
        super().__init__(*arguments, **more)
        self._package = package
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in the order of the table."""
        return list(self._table)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of that name; None if there is none."""
        if name not in self._table:
            return None
        module = vars(import_module(f"{self._package}.{self._table[name][0]}"))
        function = name.replace("-", "_")
        # A name that Python itself uses is followed by an underscore.
        command: click.Command = module.get(f"{function}_") or module[function]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list, for which no command is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self._table.items()])


@click.group(
    cls=Commands,
    package="kvmxen.cli",
    table=_COMMANDS,
    epilog=STATUSES,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="kvmxen", message="%(prog)s %(version)s")
def kvmxen() -> None:
    """Boot Xen guests on a plain Linux host: /dev/kvm and Python, no Xen."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (sys.argv's, if none is given) and return the exit status.

    Every error is one line on stderr.
    """
    return run(kvmxen, sys.argv[1:] if arguments is None else arguments, "kvmxen")


def run(command: click.Command, arguments: Sequence[str], name: str, obj: object = None) -> int:
    """Run the command line of the program `name`; see main(). `obj` is for its commands."""
    try:
        return _run(command, arguments, name, obj)
    finally:
        settle()


def _run(command: click.Command, arguments: Sequence[str], name: str, obj: object) -> int:
    debug = "--debug" in arguments
    try:
        status = command.main(arguments, prog_name=name, standalone_mode=False, obj=obj)
        sys.stdout.flush()
    except click.ClickException as error:
        return _fail(_usage(error), USAGE)
    except FieldError as error:
        from kvmxen.cli.boot import FIELDS

        return _fail(error.worded(FIELDS), error.exit_status)
    except KvmxenError as error:
        return _fail(str(error), error.exit_status)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has left, and knows it.
        return FAILED
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exc()
        if sentence := shortage(error):
            return _fail(sentence, FAILED)
        hint = "" if debug else ", with the output of --debug"
        fault = f"{type(error).__name__}: {error}"
        return _fail(f"internal error: {fault}; please report it{hint}", FAILED)
    return status or 0


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "kvmxen"
    text = error.format_message().rstrip(".")
    return f"{text[:1].lower()}{text[1:]} (see {command} --help)"


def _fail(sentence: str, status: int) -> int:
    say(printable(sentence))
    return status
