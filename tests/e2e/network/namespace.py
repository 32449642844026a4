"""A network namespace for a test, with a bridge in it; it ends with its last user."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

_CLONE_NEWNET = 0x40000000
BRIDGE, ADDRESS, ADDRESS6 = "br-test", "192.0.2.1", "2001:db8::1"
MTU = 9000
_T = TypeVar("_T")


class Unavailable(Exception):
    """It is not available here; str() says why."""


class Namespace:
    """A thread in a namespace; whatever it opens or starts is in there."""

    def __init__(self) -> None:
        if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
            raise Unavailable("/dev/net/tun, readable and writable")
        self._thread = ThreadPoolExecutor(max_workers=1)
        try:
            self.run(_set_up)
        except BaseException:
            self._thread.shutdown()
            raise

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.shutdown()

    def run(self, what: Callable[[], _T]) -> _T:
        """Run `what` in the namespace."""
        return self._thread.submit(what).result()


def _set_up() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        why = os.strerror(ctypes.get_errno())
        raise Unavailable(f"the right to make a network namespace, CAP_SYS_ADMIN ({why})")
    with IPRoute() as ip:
        try:
            ip.link("add", ifname=BRIDGE, kind="bridge")
        except NetlinkError as error:
            raise Unavailable(f"bridges in the host's kernel ({error})") from None
        index = ip.link_lookup(ifname=BRIDGE)[0]
        ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
        ip.link("set", index=index, mtu=MTU, state="up")
        ip.addr("add", index=index, address=ADDRESS, prefixlen=24)
        # There are no duplicate addresses in here, so detection is off.
        ip.addr("add", index=index, address=ADDRESS6, prefixlen=64, flags=0x02)
