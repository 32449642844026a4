"""kvmxen boots Xen guests on a plain Linux host: /dev/kvm and Python, no Xen.

>>> from kvmxen import Config, ConsoleSpec, Domain
>>> with Domain(Config(name="demo", console=ConsoleSpec("program"))) as domain:
...     domain.start()
...     banner = domain.console.read_until(b"+--", timeout=60)
...     ending = domain.wait()
>>> ending.end
<End.POWEROFF: 'powered off'>
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvmxen.config.cloud_init import CloudInit
    from kvmxen.config.console import ConsoleSpec
    from kvmxen.config.disk import DiskSpec
    from kvmxen.config.domain import Config
    from kvmxen.config.net import NetSpec
    from kvmxen.domain.domain import Domain
    from kvmxen.domain.ending import Ending
    from kvmxen.domain.events import Event
    from kvmxen.domain.remote import connect
    from kvmxen.domain.state import State
    from kvmxen.errors import KvmxenError, UsageError
    from kvmxen.pv.machine import End

__version__ = "0.1.0"

# Each name is imported at its first use.
_PLACES = {
    "CloudInit": "config.cloud_init",
    "Config": "config.domain",
    "ConsoleSpec": "config.console",
    "DiskSpec": "config.disk",
    "Domain": "domain.domain",
    "End": "pv.machine",
    "Ending": "domain.ending",
    "Event": "domain.events",
    "KvmxenError": "errors",
    "NetSpec": "config.net",
    "State": "domain.state",
    "UsageError": "errors",
    "connect": "domain.remote",
}
__all__ = [
    "CloudInit",
    "Config",
    "ConsoleSpec",
    "DiskSpec",
    "Domain",
    "End",
    "Ending",
    "Event",
    "KvmxenError",
    "NetSpec",
    "State",
    "UsageError",
    "connect",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
