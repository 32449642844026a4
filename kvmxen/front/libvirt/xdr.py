"""XDR (RFC 4506), as far as libvirt's messages use it: types that write values and read them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Protocol

# The longest string, and the most elements of an array, that are read; a message bounds both too.
MAX_STRING = 4 << 20
MAX_ITEMS = 1 << 16


class XdrError(Exception):
    """Bytes that are not of the type that is read; str() says why."""


class Reader:
    """Reads values from `data`, one after another."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes, and the padding behind them."""
        end = self._at + size
        if not 0 <= size <= len(self._data) - self._at:
            raise XdrError("the message is too short")
        found = self._data[self._at : end]
        self._at = end + -size % 4
        return found


class Type(Protocol):
    """A type of XDR's."""

    def read(self, reader: Reader) -> Any: ...
    def write(self, value: Any) -> bytes: ...


class _Number:
    def __init__(self, form: str) -> None:
        self._struct = struct.Struct(form)

    def read(self, reader: Reader) -> Any:
        return self._struct.unpack(reader.take(self._struct.size))[0]

    def write(self, value: Any) -> bytes:
        return self._struct.pack(value)


INT, UINT = _Number(">i"), _Number(">I")
HYPER, UHYPER, DOUBLE = _Number(">q"), _Number(">Q"), _Number(">d")


class _Opaque:
    def read(self, reader: Reader) -> bytes:
        size = UINT.read(reader)
        if size > MAX_STRING:
            raise XdrError("a string is too long")
        return reader.take(size)

    def write(self, value: bytes) -> bytes:
        return UINT.write(len(value)) + value + bytes(-len(value) % 4)


class _String(_Opaque):
    def read(self, reader: Reader) -> Any:
        return super().read(reader).decode(errors="surrogateescape")

    def write(self, value: Any) -> bytes:
        return super().write(value.encode(errors="surrogateescape"))


OPAQUE, STRING = _Opaque(), _String()


class Fixed:
    """`size` bytes."""

    def __init__(self, size: int) -> None:
        self._size = size

    def read(self, reader: Reader) -> bytes:
        """The bytes."""
        return reader.take(self._size)

    def write(self, value: bytes) -> bytes:
        """The bytes, which must be of the right number."""
        assert len(value) == self._size
        return value + bytes(-len(value) % 4)


class Optional:
    """A value of `kind`, or None."""

    def __init__(self, kind: Type) -> None:
        self._kind = kind

    def read(self, reader: Reader) -> Any:
        """The value, None if there is none."""
        present = UINT.read(reader)
        if present > 1:
            raise XdrError("an optional value is neither there nor not there")
        return self._kind.read(reader) if present else None

    def write(self, value: Any) -> bytes:
        """The value, or that there is none."""
        return UINT.write(0) if value is None else UINT.write(1) + self._kind.write(value)


class Array:
    """Any number of values of `kind`."""

    def __init__(self, kind: Type) -> None:
        self._kind = kind

    def read(self, reader: Reader) -> list[Any]:
        """The values."""
        count = UINT.read(reader)
        if count > MAX_ITEMS:
            raise XdrError("an array is too long")
        return [self._kind.read(reader) for _ in range(count)]

    def write(self, value: Sequence[Any]) -> bytes:
        """The values."""
        return UINT.write(len(value)) + b"".join(map(self._kind.write, value))


class Struct:
    """A value of each of `kinds`, as a tuple."""

    def __init__(self, *kinds: Type) -> None:
        self._kinds = kinds

    def read(self, reader: Reader) -> tuple[Any, ...]:
        """The values."""
        return tuple(kind.read(reader) for kind in self._kinds)

    def write(self, value: Sequence[Any]) -> bytes:
        """The values, which must be of the right number."""
        pairs = zip(self._kinds, value, strict=True)
        return b"".join(kind.write(one) for kind, one in pairs)


class Chars:
    """An array of `size` char, each of which XDR writes as a number; a text, cut and padded."""

    def __init__(self, size: int) -> None:
        self._size = size

    def read(self, reader: Reader) -> str:
        """The text, up to its NUL."""
        found = bytes(INT.read(reader) & 0xFF for _ in range(self._size))
        return found.partition(b"\0")[0].decode(errors="replace")

    def write(self, value: str) -> bytes:
        """The text, with a NUL at least at the end."""
        data = value.encode()[: self._size - 1].ljust(self._size, b"\0")
        return b"".join(map(INT.write, data))


class Union:
    """A number, and a value of the type that it stands for in `kinds`: a pair."""

    def __init__(self, kinds: dict[int, Type]) -> None:
        self._kinds = kinds

    def read(self, reader: Reader) -> tuple[int, Any]:
        """The number and the value."""
        number = INT.read(reader)
        if number not in self._kinds:
            raise XdrError("a union has no such arm")
        return number, self._kinds[number].read(reader)

    def write(self, value: tuple[int, Any]) -> bytes:
        """The number and the value."""
        number, content = value
        return INT.write(number) + self._kinds[number].write(content)
