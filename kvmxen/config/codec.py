"""Frozen dataclasses as JSON values, for the control socket and for processes of our own.

A dataclass is an object of its fields, nested ones too. A path is absolute and percent-encoded as
in a file: URI, since a file's name need not be UTF-8; so is a text that is not UTF-8.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID


class CodecError(Exception):
    """A JSON value is not one of the type asked for; str() says why."""


def encode(value: object) -> Any:
    """`value` as a JSON value; paths relative to this process become absolute."""
    if isinstance(value, Path):
        return _quoted(os.fsencode(value.absolute()))
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    return value


def decode(kind: Any, value: object, where: str) -> Any:
    """`value` as a `kind`, the type of a field; nothing is converted silently.

    `where` names it in errors. Raises CodecError, and UsageError if a dataclass refuses its values.
    """
    origin = get_origin(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return kind(**_fields(kind, value, where))
    if kind is Path and isinstance(value, str):
        return _path(value, where)
    if kind is UUID or (isinstance(kind, type) and issubclass(kind, Enum)):
        return _made(kind, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(decode(get_args(kind)[0], item, where) for item in value)
    if origin is Literal:
        # True == 1, so compare the types too.
        known = [(type(item), item) for item in get_args(kind)]
        if isinstance(value, str | int) and (type(value), value) in known:
            return value
    elif origin in (Union, UnionType):
        others = [arm for arm in get_args(kind) if arm is not NoneType]
        if value is None and len(others) < len(get_args(kind)):
            return None
        (arm,) = others
        return decode(arm, value, where)
    elif type(value) is kind:
        return value
    elif kind is float and type(value) is int:
        # JSON has one kind of number, and Python takes an int for a float.
        return value
    raise CodecError(f"{where} cannot be {value!r:.100}")


def _fields(kind: Any, value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CodecError(f"{where} is not an object")
    hints = get_type_hints(kind)
    required = {f.name for f in fields(kind) if f.default is f.default_factory is MISSING}
    if strange := value.keys() - hints.keys():
        raise CodecError(f"{where} has a field that is unknown: {min(strange)!r:.100}")
    if missing := required - value.keys():
        raise CodecError(f"{where} lacks {min(missing)!r}")
    return {name: decode(hints[name], item, f"{where}: {name}") for name, item in value.items()}


def _quoted(data: bytes) -> str:
    from urllib.parse import quote

    return quote(data)


def _path(value: str, where: str) -> Path:
    from urllib.parse import unquote_to_bytes

    if value.startswith("/") and value.isascii():
        path = unquote_to_bytes(value)
        if b"\0" not in path:
            return Path(os.fsdecode(path))
    raise CodecError(f"{where} is not the path of a file: {value!r:.100}")


def _made(kind: type, value: object, where: str) -> object:
    """A UUID or a member of an Enum."""
    if isinstance(value, str):
        with suppress(ValueError):
            return kind(value)
    raise CodecError(f"{where} is no {kind.__name__}: {value!r:.100}")
