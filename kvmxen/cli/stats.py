"""--stats: the costs of a run, as a table or as JSON, on stderr or in a file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal, TextIO

from kvmxen.errors import KvmxenError
from kvmxen.streams import say, tell

Kind = Literal["text", "json"]


class Stats:
    """Reports the figures of a domain's runs: as a table, as a line of JSON each, or not at all.

    JSON goes to the file `path`, if given, else to stderr. Entering the context opens that file
    and empties it; raises KvmxenError if it cannot be opened.
    """

    def __init__(self, kind: Kind | None = None, path: Path | None = None) -> None:
        self._kind = kind
        self._path = path
        self._file: TextIO | None = None

    def __enter__(self) -> Stats:
        if self._path is not None:
            try:
                self._file = self._path.open("w")
            except OSError as error:
                raise KvmxenError(
                    f"cannot open the --stats file {self._path}: {error.strerror}; "
                    "choose another file"
                ) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def report(self, figures: dict[str, object]) -> None:
        """Write `figures` as requested; as JSON in one line."""
        if self._kind == "text":
            tell(_table(figures))
        elif self._kind == "json":
            import json

            line = json.dumps(figures)
            if self._file is None:
                tell(line)
                return
            try:
                self._file.write(f"{line}\n")
                self._file.flush()
            except OSError as error:
                say(f"cannot write the --stats file {self._path}: {error.strerror}")


def _table(figures: dict[str, object]) -> str:
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict):
            lines.append(f"{name}:")
            lines += [f"  {key:32} {count:>12,}" for key, count in value.items()]
        elif isinstance(value, int) and name.endswith("_ns"):
            lines.append(f"{name.removesuffix('_ns'):34} {value / 1e9:>12.3f} s")
        elif isinstance(value, int):
            lines.append(f"{name:34} {value:>12,}")
    return "\n".join(lines)
