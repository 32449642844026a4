"""A tap device: a network card of the host whose other end is the guest's.

Source: linux/if_tun.h, Linux's Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from kvmxen.backends.net.link import TapLink
from kvmxen.backends.net.vif import Offloads, Wire
from kvmxen.errors import KvmxenError

DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6 = 0x01, 0x02, 0x04
_IFREQ = struct.Struct("16sH22x")
# The size of struct virtio_net_hdr, in bytes.
_VNET_HEADER = 10
_ADVICE = (
    "run as root, or have root make one for you (ip tuntap add NAME mode tap user YOU vnet_hdr) "
    "and give --net tap=NAME, or give --net user"
)


class Tap(Wire):
    """The tap device `name`, created if it does not exist; if empty, the host chooses a name.

    If `bridge` is given, the device joins it. `close` removes a device that was created here, and
    keeps one that existed. Raises KvmxenError.
    """

    def __init__(self, name: str = "", bridge: str = "") -> None:
        found = bool(name) and Path("/sys/class/net", name).exists()
        try:
            self._fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise KvmxenError(f"cannot open {DEVICE} ({error.strerror}): {_ADVICE}") from None
        try:
            self.name = self._make(name)
            if bridge or not found:
                _bring_up(self.name, bridge)
        except BaseException:
            os.close(self._fd)
            raise
        self.link = TapLink(self._fd)

    def _make(self, name: str) -> str:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        request = _IFREQ.pack((name or "kvmxen%d").encode(), flags)
        try:
            answer = fcntl.ioctl(self._fd, _TUNSETIFF, request)
            fcntl.ioctl(self._fd, _TUNSETVNETHDRSZ, struct.pack("i", _VNET_HEADER))
        except OSError as error:
            if error.errno == errno.EPERM:
                raise KvmxenError(f"no permission to use a tap device: {_ADVICE}") from None
            if error.errno == errno.EBUSY:
                raise KvmxenError(
                    f"the tap device {name} is in use by another process: stop it, or give "
                    "another device"
                ) from None
            raise KvmxenError(
                f"cannot use the tap device {name or 'of a new name'} ({error.strerror}); "
                "a device that exists must be a tap device with vnet_hdr"
            ) from None
        return str(_IFREQ.unpack(answer)[0].rstrip(b"\0").decode())

    def set_offloads(self, offloads: Offloads) -> None:
        """Have the host's kernel do what the guest does not accept before it hands a packet
        over."""
        # Checksum offload has one flag for both IP versions: a frontend without both gets computed
        # checksums.
        csum = offloads.csum and offloads.csum6
        flags = _TUN_F_CSUM if csum else 0
        if csum and offloads.tso4:
            flags |= _TUN_F_TSO4
        if csum and offloads.tso6:
            flags |= _TUN_F_TSO6
        fcntl.ioctl(self._fd, _TUNSETOFFLOAD, flags)

    def close(self) -> None:
        """See Wire."""
        os.close(self._fd)


def _bring_up(name: str, bridge: str) -> None:
    # Imported here: it takes long.
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as ip:
        try:
            index = ip.link_lookup(ifname=name)[0]
            if bridge:
                master = ip.link_lookup(ifname=bridge)
                if not master:
                    raise KvmxenError(
                        f"there is no bridge {bridge}: create it (ip link add {bridge} type "
                        "bridge), or give another"
                    )
                # As in Xen's vif-bridge script: a port gets the bridge's MTU.
                mtu = ip.get_links(master[0])[0].get_attr("IFLA_MTU")
                ip.link("set", index=index, mtu=mtu)
                ip.link("set", index=index, master=master[0])
            ip.link("set", index=index, state="up")
        except NetlinkError as error:
            what = f"put {name} on the bridge {bridge}" if bridge else f"bring {name} up"
            raise KvmxenError(f"cannot {what} ({os.strerror(error.code)}): {_ADVICE}") from None
