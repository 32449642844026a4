"""The numbers of io.h, each under its name there: the protocols of devices and of xenstore."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kvmxen.xen.abi.headers import constants

globals().update(constants(Path(__file__).with_suffix(".h")))
if TYPE_CHECKING:

    def __getattr__(name: str) -> int: ...
