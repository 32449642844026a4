"""What a format cannot say of a domain."""

from __future__ import annotations

from dataclasses import fields

from kvmxen.config import Config
from kvmxen.errors import UsageError


def check_same(config: Config, again: Config, form: str) -> None:
    """Raises UsageError unless `again`, read from what was written of `config` in the format
    `form`, is the same domain."""
    # The console is a matter of the command that starts the domain.
    lost = [
        field.name
        for field in fields(Config)
        if field.name != "console" and getattr(config, field.name) != getattr(again, field.name)
    ]
    if lost:
        raise UsageError(f"the format {form} cannot say all of {', '.join(lost)}: change that")
