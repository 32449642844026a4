"""The files for cloud-init in the guest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kvmxen.errors import UsageError


@dataclass(frozen=True)
class CloudInit:
    """User data, and meta data; without those the domain's name and UUID."""

    user_data: Path
    meta_data: Path | None = None

    @classmethod
    def parse(cls, text: str) -> CloudInit:
        """Parse USER-DATA[,META-DATA]; raises UsageError."""
        user, comma, meta = text.partition(",")
        if not user or (comma and not meta):
            raise UsageError(
                f"--cloud-init {text!r} names no file: give USER-DATA or USER-DATA,META-DATA"
            )
        return cls(Path(user), Path(meta) if meta else None)
