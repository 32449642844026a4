"""The place of a domain's console."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kvmxen.errors import UsageError

ConsoleKind = Literal["stdio", "pty", "file", "none", "program"]


@dataclass(frozen=True)
class ConsoleSpec:
    """A console's kind; `path` is set for "file" only.

    A "program" console is for the program that has the Domain: Domain.console.
    """

    kind: ConsoleKind
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> ConsoleSpec:
        """Parse "stdio", "pty", "file:PATH" or "none"; raises UsageError for anything else."""
        match text.partition(":"):
            case ("stdio" | "pty" | "none") as kind, "", "":
                return cls(kind)
            case "file", ":", path if path:
                return cls("file", Path(path))
        raise UsageError(f"unknown console {text!r}: give stdio, pty, file:PATH or none")
