"""An XML element that knows what of it was read, so that nothing of it is ignored silently."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from xml.etree import ElementTree

from kvmxen.errors import UsageError

MAX_SIZE = 1 << 20
# Nothing that is read is nested deeper; a program's metadata may be.
MAX_DEPTH = 64
# A DOCTYPE could define entities that grow without limit, or name files.
_DOCTYPE = re.compile(r"<!\s*(?:DOCTYPE|ENTITY)", re.IGNORECASE)


class XmlError(UsageError):
    """The text is not XML, or lacks what it needs."""


class UnsupportedElement(UsageError):
    """The XML asks for something that is not done; str() has its path."""


def parse(text: str) -> Node:
    """The root of an XML text; raises XmlError."""
    if len(text) > MAX_SIZE:
        raise XmlError(f"the XML is longer than {MAX_SIZE >> 20} MiB")
    if _DOCTYPE.search(text):
        raise XmlError("the XML has a DOCTYPE: remove it")
    try:
        element = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise XmlError(f"the XML is not well-formed: {error}") from None
    level = [element]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in parent]
    if level:
        raise XmlError(f"the XML is nested more than {MAX_DEPTH} elements deep")
    return Node(element, f"/{element.tag}")


class Node:
    """An element at `path`; done() checks that all of it was read."""

    def __init__(self, element: ElementTree.Element, path: str) -> None:
        self.element = element
        self.path = path
        self._read: set[str] = set()

    @property
    def name(self) -> str:
        """The element's name."""
        return self.element.tag

    @property
    def text(self) -> str:
        """The text in it."""
        return (self.element.text or "").strip()

    def attribute(self, name: str, default: str = "") -> str:
        """The value of an attribute."""
        self._read.add(f"@{name}")
        return self.element.get(name, default)

    def one_of(self, name: str, values: Iterable[str], default: str = "") -> str:
        """The value of an attribute that may have these values only."""
        value = self.attribute(name, default)
        if value and value not in values:
            raise self.unsupported(f"@{name}", value)
        return value

    def child(self, name: str) -> Node | None:
        """The child of that name, if there is one; raises XmlError if there are more."""
        found = list(self.children(name))
        if len(found) > 1:
            raise XmlError(f"{self.path} has more than one <{name}>")
        return found[0] if found else None

    def children(self, name: str) -> Iterator[Node]:
        """The children of that name."""
        self._read.add(name)
        for element in self.element.findall(name):
            yield Node(element, f"{self.path}/{name}")

    def every_child(self) -> Iterator[Node]:
        """All children; each must be read by itself."""
        for element in self.element:
            self._read.add(element.tag)
            yield Node(element, f"{self.path}/{element.tag}")

    def value(self, name: str, default: str = "") -> str:
        """The text of the child of that name."""
        child = self.child(name)
        if child is None:
            return default
        child.done()
        return child.text

    def ignore(self, *names: str) -> None:
        """Do without these attributes ("@name") and children, whatever is in them."""
        self._read.update(names)

    def done(self) -> None:
        """Raise UnsupportedElement if something was not read."""
        for name in self.element.attrib:
            if f"@{name}" not in self._read:
                raise self.unsupported(f"@{name}", self.element.get(name, ""))
        for child in self.element:
            if child.tag not in self._read:
                raise self.unsupported(child.tag)

    def unsupported(self, what: str = "", value: str = "") -> UnsupportedElement:
        """The error for `what`, a child or an attribute, or for the element itself."""
        path = f"{self.path}/{what}" if what else self.path
        given = f" ({value:.80})" if value else ""
        return UnsupportedElement(f"kvmxen does not do {path}{given}")
