"""The calls that translate between domain XML and the files of Xen's xl."""

from __future__ import annotations

from kvmxen.config.readers import libvirt, xl
from kvmxen.config.readers.libvirt import DomainXml
from kvmxen.config.readers.loss import check_same
from kvmxen.front.libvirt.session import Session
from kvmxen.front.libvirt.wire import Code, Failure

_XL = "xen-xl"


def to_native(_session: Session, form: str, text: str, _flags: int) -> tuple[str]:
    """The XML `text` as a file for xl."""
    _check(form)
    config = libvirt.read(text).config
    written = xl.write(config)
    check_same(config, xl.read(written, form).config, form)
    return (written,)


def from_native(_session: Session, form: str, text: str, _flags: int) -> tuple[str]:
    """xl's file `text` as XML."""
    _check(form)
    reading = xl.read(text, "the configuration")
    for sentence in reading.warnings:
        # A client has no place for a warning.
        raise Failure(Code.UNSUPPORTED, sentence)
    written = libvirt.write(DomainXml(reading.config))
    check_same(reading.config, libvirt.read(written).config, "libvirt")
    return (written,)


def _check(form: str) -> None:
    if form != _XL:
        raise Failure(Code.INVALID, f"kvmxen translates {_XL}, not {form!r:.40}")
