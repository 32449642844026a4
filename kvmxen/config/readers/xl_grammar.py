"""The grammar of xl's configuration files: KEY = VALUE; a value is a text, a number or a list.

xl has had no Python in its files since 4.0, and this reader executes nothing either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kvmxen.errors import UsageError

# A list's items are texts and lists; a number is kept as it is written.
Value = str | list["Value"]

# Limits of a file: bytes, keys, nested lists, items of a list.
MAX_SIZE = 1 << 20
_MAX_KEYS = 1000
_MAX_DEPTH = 8
_MAX_ITEMS = 1000
_TOKEN = re.compile(
    r"""(?P<space>[ \t]+|\#[^\n]*)
    |(?P<end>[\n;])
    |(?P<key>[a-z][._0-9a-z]*)
    |(?P<number>0[xX][0-9a-fA-F]+|[0-9]+)
    |(?P<text>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
    |(?P<mark>\+=|[=\[\],])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = dict(zip("\\'\"abfnrtv", "\\'\"\a\b\f\n\r\t\v", strict=True))
_PYTHON = re.compile(r"(?:import|def|from|if|for|print|class)\b|[-*+/()%.]")


@dataclass(frozen=True)
class Setting:
    """The value of a key, and where it was last assigned: the file and the line."""

    value: Value
    where: str


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int


def parse(text: str, where: str) -> dict[str, Setting]:
    """The settings of a file's `text`; `where` names the file in errors. Raises UsageError."""
    return _parse(text, where, {})


def parse_argument(text: str, before: Mapping[str, Setting]) -> dict[str, Setting]:
    """The settings `before`, changed by those of an argument of the command line."""
    return _parse(text, "", before)


def _parse(text: str, where: str, before: Mapping[str, Setting]) -> dict[str, Setting]:
    parser = _Parser(text, where, before)
    if len(text) > MAX_SIZE:
        raise UsageError(f"{where} is larger than {MAX_SIZE >> 20} MiB: it is no configuration")
    head, nul, _ = text.partition("\0")
    if nul:
        line = parser.place(head.count("\n") + 1)
        raise UsageError(f"{line}: there is a NUL in it: it is no configuration")
    return parser.settings()


class _Parser:
    def __init__(self, text: str, where: str, before: Mapping[str, Setting]) -> None:
        self._where = where
        self._text = text
        self._before = before
        self._tokens = self._split(text)
        self._next = next(self._tokens)

    def place(self, line: int) -> str:
        """A line in the words of an error; an argument is shown itself."""
        return f"{self._where}:{line}" if self._where else f"the argument {self._text!r:.80}"

    def settings(self) -> dict[str, Setting]:
        """All of them; raises UsageError."""
        found = dict(self._before)
        while self._next.kind != "eof":
            if self._next.kind == "end":
                self._take()
                continue
            key = self._take("key", "a key, such as memory").text
            mark = self._take("mark", "= after the key")
            if mark.text not in ("=", "+="):
                raise self._error(mark, "= after the key")
            value = self._value(0)
            if mark.text == "+=" and key in found:
                value = self._joined(found[key].value, value, mark)
            found[key] = Setting(value, self.place(mark.line))
            self._limit(len(found), _MAX_KEYS, "keys")
            if self._next.kind not in ("end", "eof"):
                raise self._error(self._next, "the end of the line")
        return found

    def _value(self, depth: int) -> Value:
        token = self._take()
        if token.kind == "number":
            return token.text
        if token.kind == "text":
            return self._unquoted(token)
        if token.text != "[" or depth == _MAX_DEPTH:
            raise self._error(token, "a text in quotes, a number, or a list in brackets")
        items: list[Value] = []
        while True:
            self._skip_lines()
            if self._next.text == "]" and self._next.kind == "mark":
                break
            items.append(self._value(depth + 1))
            self._limit(len(items), _MAX_ITEMS, "items in a list")
            self._skip_lines()
            if self._next.kind != "mark" or self._next.text not in (",", "]"):
                raise self._error(self._next, "a comma or ]")
            if self._next.text == ",":
                self._take()
        self._take()
        return items

    def _joined(self, before: Value, value: Value, mark: _Token) -> Value:
        if isinstance(before, list) and isinstance(value, list):
            self._limit(len(before) + len(value), _MAX_ITEMS, "items in a list")
            return [*before, *value]
        if isinstance(before, str) and isinstance(value, str):
            return before + value
        raise UsageError(f"{self.place(mark.line)}: += joins two texts or two lists, not both")

    def _limit(self, count: int, most: int, what: str) -> None:
        if count > most:
            raise UsageError(f"{self.place(self._next.line)}: more than {most} {what}: use fewer")

    def _unquoted(self, token: _Token) -> str:
        def plain(match: re.Match[str]) -> str:
            if match[1] not in _ESCAPES:
                raise UsageError(
                    f"{self.place(token.line)}: \\{match[1]} has no meaning in a text: "
                    "write \\\\ for a backslash"
                )
            return _ESCAPES[match[1]]

        return _ESCAPE.sub(plain, token.text[1:-1])

    def _skip_lines(self) -> None:
        while self._next.kind == "end" and self._next.text == "\n":
            self._take()

    def _take(self, kind: str = "", wanted: str = "") -> _Token:
        token = self._next
        if kind and token.kind != kind:
            raise self._error(token, wanted)
        if token.kind != "eof":
            self._next = next(self._tokens)
        return token

    def _error(self, token: _Token, wanted: str) -> UsageError:
        found = f"not {token.text!r:.60}" if token.text.strip() else "and the line ends"
        if token.kind == "eof":
            found = "and the file ends"
        advice = "; Python is not understood" if _PYTHON.match(token.text) else ""
        return UsageError(f"{self.place(token.line)}: {wanted} is expected, {found}{advice}")

    def _split(self, text: str) -> Iterator[_Token]:
        at, line = 0, 1
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                rest = text[at:].partition("\n")[0]
                yield _Token("unknown", rest, line)
                at = len(text)
                continue
            kind = match.lastgroup or ""
            if kind != "space":
                yield _Token(kind, match[0], line)
            line += match[0] == "\n"
            at = match.end()
        yield _Token("eof", "", line)
