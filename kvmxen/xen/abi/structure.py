"""Xen's structures: each is written once, for 64-bit and for 32-bit guests.

A structure is a class with a line for each field, under the names of Xen's header:

    class EvtchnBindIpi(Structure):
        vcpu = U32()
        port = U32()

`EvtchnBindIpi.load(cpu, va)` copies one from a guest; its fields are attributes of the copy.
`EvtchnBindIpi(vcpu=1).store(cpu, va)` writes one, and `EvtchnBindIpi.port.store(cpu, va, 5)`
writes one field of it.

`bits64` and `bits32` lay it out as C compilers do for these guests, for `struct`, which is fast,
and for construct, which is readable.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cached_property
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, overload

T = TypeVar("T")


class Guest(Protocol):
    """The vCPU whose memory has the structures, by virtual address; both raise GuestFault."""

    def read(self, va: int, length: int, /) -> bytes: ...

    def write(self, va: int, data: bytes, /) -> None: ...


class Field(Generic[T]):
    """A field: its value in an instance of the structure, itself in the structure's class."""

    _owner: type[Structure]
    _name: str
    # A structure is a flat tuple: where this field's values begin in it, and how many they are.
    first = 0
    span = 1

    def __set_name__(self, owner: type[Structure], name: str) -> None:
        self._owner, self._name = owner, name

    @overload
    def __get__(self, instance: None, owner: type[Structure]) -> Self: ...

    @overload
    def __get__(self, instance: Structure, owner: type[Structure]) -> T: ...

    def __get__(self, instance: Structure | None, owner: type[Structure]) -> Self | T:
        return self if instance is None else self.take(instance, self.first)

    def load(self, guest: Guest, va: int) -> T:
        """Copy this field alone of the structure at `va`; raises GuestFault."""
        offset, alone = self._alone
        return self.take(alone.unpack(guest.read(va + offset, alone.size)), 0)

    def store(self, guest: Guest, va: int, value: T) -> None:
        """Write this field alone of the structure at `va`; raises GuestFault."""
        offset, alone = self._alone
        guest.write(va + offset, alone.pack(*self.spread(value)))

    @cached_property
    def _alone(self) -> tuple[int, struct.Struct]:
        """This field's offset in bytes, and its format."""
        offset, codes = self._owner.bits64.fields[self._name]
        return offset, struct.Struct(codes)

    def place(self, width: int) -> tuple[str, int]:
        """The codes for `struct`, and the alignment in bytes, for guests of `width` bits."""
        raise NotImplementedError

    def take(self, values: tuple[Any, ...], first: int) -> T:
        """The field whose values begin at `first` in `values`."""
        value: T = values[first]
        return value

    def spread(self, value: T) -> Iterable[Any]:
        """The inverse of `take`."""
        return (value,)


class _Integer(Field[int]):
    code: str

    def place(self, width: int) -> tuple[str, int]:
        return self.code, struct.calcsize(f"<{self.code}")


class U8(_Integer):
    """uint8_t"""

    code = "B"


class S8(_Integer):
    """int8_t"""

    code = "b"


class U16(_Integer):
    """uint16_t, domid_t"""

    code = "H"


class S16(_Integer):
    """int16_t"""

    code = "h"


class U32(_Integer):
    """uint32_t, evtchn_port_t, grant_ref_t"""

    code = "L"


class S32(_Integer):
    """int"""

    code = "l"


class U64(_Integer):
    """uint64_t"""

    code = "Q"


class ULong(_Integer):
    """unsigned long, xen_pfn_t, and pointers (XEN_GUEST_HANDLE)"""

    def place(self, width: int) -> tuple[str, int]:
        return ("Q", 8) if width == 64 else ("L", 4)


class Bytes(Field[bytes]):
    """char[length]; a shorter value is filled with NULs."""

    def __init__(self, length: int) -> None:
        self.length = length

    def place(self, width: int) -> tuple[str, int]:
        return f"{self.length}s", 1


class _Lazy:
    """The layout for `width` bits, made when it is first asked for."""

    def __init__(self, width: int) -> None:
        self._width = width

    def __get__(self, instance: object, owner: type[S]) -> Layout[S]:
        layout = Layout(owner, self._width)
        setattr(owner, f"bits{self._width}", layout)
        return layout


class Structure(tuple[Any, ...]):
    """A private copy of a structure. A subclass says which widths of guests it is for, and whether
    it is packed."""

    bits64 = _Lazy(64)
    bits32 = _Lazy(32)
    fields: ClassVar[dict[str, Field[Any]]]
    widths: ClassVar[tuple[int, ...]]
    packed: ClassVar[bool]
    span: ClassVar[int]

    def __init_subclass__(cls, widths: tuple[int, ...] = (64, 32), packed: bool = False) -> None:
        cls.fields = {name: each for name, each in vars(cls).items() if isinstance(each, Field)}
        cls.widths, cls.packed, span = widths, packed, 0
        for field in cls.fields.values():
            field.first = span
            span += field.span
        cls.span = span

    def __new__(cls, **values: Any) -> Self:
        """The structure with `values` in its fields, and 0 in those that are not named."""
        return cls.bits64.unpack(bytes(cls.bits64.size)).replace(**values)

    @classmethod
    def of(cls, values: Iterable[Any]) -> Self:
        """The structure with `values`, which are all of its values in order."""
        return tuple.__new__(cls, values)

    @classmethod
    def layout(cls, width: int) -> Layout[Self]:
        """The layout for guests of `width` bits."""
        return cls.bits64 if width == 64 else cls.bits32

    @classmethod
    def load(cls, guest: Guest, va: int) -> Self:
        """Copy the structure at `va`; raises GuestFault."""
        layout = cls.bits64
        return layout.unpack(guest.read(va, layout.size))

    def store(self, guest: Guest, va: int) -> None:
        """Write the structure to `va`; raises GuestFault."""
        guest.write(va, self.pack())

    def pack(self) -> bytes:
        """The structure's bytes."""
        return self.bits64.pack(*self)

    def replace(self, **values: Any) -> Self:
        """The structure with `values` in the fields that they name; raises KeyError for others."""
        flat = list(self)
        for name, value in values.items():
            field = self.fields[name]
            flat[field.first : field.first + field.span] = field.spread(value)
        return self.of(flat)


S = TypeVar("S", bound=Structure)


class Nested(Field[S]):
    """A structure in the structure."""

    def __init__(self, structure: type[S]) -> None:
        self.structure = structure
        self.span = structure.span

    def place(self, width: int) -> tuple[str, int]:
        layout = self.structure.layout(width)
        return layout.codes, layout.alignment

    def take(self, values: tuple[Any, ...], first: int) -> S:
        return self.structure.of(values[first : first + self.span])

    def spread(self, value: S) -> Iterable[Any]:
        return value


class Array(Field[tuple[T, ...]]):
    """`length` equal fields."""

    def __init__(self, element: Field[T], length: int) -> None:
        self.element, self.length = element, length
        self.span = element.span * length

    def place(self, width: int) -> tuple[str, int]:
        codes, alignment = self.element.place(width)
        return codes * self.length, alignment

    def take(self, values: tuple[Any, ...], first: int) -> tuple[T, ...]:
        starts = range(first, first + self.span, self.element.span)
        return tuple(self.element.take(values, start) for start in starts)

    def spread(self, value: tuple[T, ...]) -> Iterable[Any]:
        return (flat for element in value for flat in self.element.spread(element))


class Layout(Generic[S]):
    """A structure in the memory of guests of one width.

    `fields` has each field's offset in bytes and its format for `struct`; `size` and `alignment`
    are in bytes; `pack` takes all values in order.
    """

    def __init__(self, structure: type[S], width: int) -> None:
        if width not in structure.widths:
            raise TypeError(f"{structure.__name__} has other fields on {width} bits")
        self.structure, self.width = structure, width
        self.fields: dict[str, tuple[int, str]] = {}
        self.alignment, at, codes = 1, 0, ""
        for name, field in structure.fields.items():
            code, alignment = field.place(width)
            # 32-bit x86 aligns even a uint64_t to 4 bytes.
            alignment = 1 if structure.packed else min(alignment, width // 8)
            padding = -at % alignment
            self.fields[name] = at + padding, f"<{code}"
            codes += padding * "x" + code
            at += padding + struct.calcsize(f"<{code}")
            self.alignment = max(self.alignment, alignment)
        self.codes = codes + -at % self.alignment * "x"
        self._struct = struct.Struct(f"<{self.codes}")
        self.size = self._struct.size
        self.pack = self._struct.pack

    def unpack(self, data: bytes) -> S:
        """The structure in `data`, which has its size."""
        return self.structure.of(self._struct.unpack(data))

    @property
    def construct(self) -> Any:
        """The same layout as a construct.Struct. construct is slow to import."""
        from kvmxen.xen.abi.readable import described

        return described(self)
