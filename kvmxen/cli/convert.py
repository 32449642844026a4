"""kvmxen convert: the same domain in another format."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
from click.core import ParameterSource

from kvmxen.config import Config
from kvmxen.config.codec import decode, encode
from kvmxen.config.readers.loss import check_same
from kvmxen.errors import FieldError, KvmxenError, UsageError
from kvmxen.streams import say

# Options of boot that are about its run alone.
_OF_THE_RUN = (
    "timeout", "shutdown_timeout", "stats", "result", "detach", "paused", "ready_fd",
)  # fmt: skip
# As long as the longest of the formats may be.
_MAX_SIZE = 1 << 20


def _read_options(text: str, where: str) -> Config:
    import shlex

    from kvmxen.cli.boot import FIELDS, boot, configured

    try:
        words = shlex.split(text, comments=True)
    except ValueError as error:
        raise UsageError(f"{where} is no command: {str(error).lower()}") from None
    if words[:2] == ["kvmxen", "boot"]:
        del words[:2]
    try:
        context = boot.make_context("boot", words)
        config = configured(context.params)
    except click.ClickException as error:
        raise UsageError(f"{where}: {error.format_message()}") from None
    except FieldError as error:
        raise UsageError(f"{where}: {error.worded(FIELDS)}") from None
    for param in boot.params:
        given = context.get_parameter_source(param.name or "")
        if given is ParameterSource.COMMANDLINE and param.name in _OF_THE_RUN:
            raise UsageError(f"{where}: {param.opts[0]} is not part of a domain's configuration")
    return config


def _write_options(config: Config) -> str:
    from kvmxen.config.readers.options import write

    return write(config)


def _read_xl(text: str, where: str) -> Config:
    from kvmxen.config.readers.xl import read

    reading = read(text, where)
    for sentence in reading.warnings:
        say(sentence)
    return reading.config


def _write_xl(config: Config) -> str:
    from kvmxen.config.readers.xl import write

    return write(config)


def _read_libvirt(text: str, where: str) -> Config:
    from kvmxen.config.readers.libvirt import read

    try:
        return read(text).config
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _write_libvirt(config: Config) -> str:
    from kvmxen.config.readers.libvirt import DomainXml, write

    return write(DomainXml(config)).rstrip() + "\n"


@dataclass(frozen=True)
class _Format:
    """How to read the text of a file, whose name is for errors, and how to write one."""

    read: Callable[[str, str], Config]
    write: Callable[[Config], str]


_FORMATS = {
    "libvirt": _Format(_read_libvirt, _write_libvirt),
    "options": _Format(_read_options, _write_options),
    "xl": _Format(_read_xl, _write_xl),
}


@click.command()
@click.option("--from", "source", type=click.Choice(list(_FORMATS)), required=True)
@click.option("--to", "target", type=click.Choice(list(_FORMATS)), required=True)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
def convert(source: str, target: str, file: Path) -> None:
    """Print the domain that FILE describes in another format; - is standard input.

    The formats: xl (xl.cfg), libvirt (domain XML) and options (the words of kvmxen boot). What a
    format cannot say is an error, never left out.
    """
    where = "standard input" if str(file) == "-" else str(file)
    try:
        with click.open_file(str(file), "rb") as opened:
            data = opened.read(_MAX_SIZE + 1)
    except OSError as error:
        raise KvmxenError(f"cannot read {file}: {error.strerror}; give another file") from None
    if len(data) > _MAX_SIZE:
        raise UsageError(f"{where} is larger than {_MAX_SIZE >> 20} MiB: it describes no domain")
    # The codec makes the paths absolute.
    config = decode(Config, encode(_FORMATS[source].read(os.fsdecode(data), where)), where)
    click.echo(os.fsencode(_written(config, target)), nl=False)


def _written(config: Config, target: str) -> str:
    """`config` in the format `target`; raises UsageError unless that format says all of it."""
    text = _FORMATS[target].write(config)
    check_same(config, _FORMATS[target].read(text, target), target)
    return text
