"""The kvmxen command: its subcommands, and the reports of their errors."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module

import click

from kvmxen import __version__
from kvmxen.cli.status import FAILED, INTERRUPTED, STATUSES, USAGE
from kvmxen.errors import FieldError, KvmxenError, printable, shortage
from kvmxen.streams import say, settle

# The module of each command.
_MODULES = {
    "block-attach": "hotplug",
    "block-detach": "hotplug",
    "block-resize": "hotplug",
    "boot": "boot",
    "doctor": "doctor",
    "network-attach": "hotplug",
    "network-detach": "hotplug",
    "top": "top",
    "xenstore": "xenstore",
}


class _Commands(Mapping[str, click.Command]):
    """The commands by name, each imported on demand: a boot needs only one of them."""

    def __getitem__(self, name: str) -> click.Command:
        module = import_module(f"kvmxen.cli.{_MODULES[name]}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


@click.group(
    commands=_Commands(),
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
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(arguments, debug)
    finally:
        settle()


def _run(arguments: Sequence[str] | None, debug: bool) -> int:
    try:
        status = kvmxen.main(arguments, prog_name="kvmxen", standalone_mode=False)
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
