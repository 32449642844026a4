"""Networking for any user: passt is a process that turns frames into sockets of the host.

The guest gets an address of its own by DHCP, and by IPv6 router advertisements. passt connects
from the host to whatever the guest connects to. The gateway's address is the host's loopback.
kvmxen passes all of these settings to passt, so that nothing depends on the host's interfaces. See
passt(1).
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

from kvmxen.backends.net.link import StreamLink
from kvmxen.backends.net.vif import Offloads, Wire
from kvmxen.config.net import Forward, NetSpec
from kvmxen.errors import KvmxenError
from kvmxen.streams import say

# The addresses that QEMU's and others' user networking uses, and a unique local prefix (RFC 4193).
ADDRESS, PREFIX, GATEWAY = "10.0.2.15", 24, "10.0.2.2"
ADDRESS6, GATEWAY6 = "fd6b:766d:7865::15", "fd6b:766d:7865::2"
GATEWAY_MAC = "52:55:0a:00:02:02"

# How long passt has to end before it is killed, in seconds.
_PATIENCE = 10.0


class Passt(Wire):
    """A passt process of our own; it ends when our end of its socket is closed, however we end.

    `spec` says which of the host's ports lead to the guest, and whether the guest reaches the
    host's loopback. Raises KvmxenError if the host has no passt, or a port is not available.
    """

    def __init__(self, name: str, spec: NetSpec) -> None:
        program = shutil.which("passt")
        if program is None:
            raise KvmxenError(
                "--net user needs passt, which is not installed: install Debian's package passt, "
                "or give --net tap"
            )
        for forward in spec.forwards:
            _check_free(forward)
        self._name = name
        self._closing = False
        self._socket, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            self._process = subprocess.Popen(
                [program, *_arguments(theirs.fileno(), spec)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                # Ctrl-C is for the guest.
                start_new_session=True,
            )
        self._socket.setblocking(False)
        self.link = StreamLink(self._socket.fileno())
        self._watcher = threading.Thread(target=self._watch, name=f"passt-{name}", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        status = self._process.wait()
        if not self._closing:
            say(f"passt {self._how(status)}; {self._name} has lost its network")

    def _how(self, status: int) -> str:
        if status < 0:
            return f"was killed by signal {-status} ({signal.strsignal(-status)})"
        self._log.seek(0)
        lines = self._log.read().decode(errors="backslashreplace").splitlines()
        said = [line for line in lines if line and "syslog" not in line][-1:]
        return f"ended with status {status}" + (f" ({said[0]})" if said else "")

    def set_offloads(self, offloads: Offloads) -> None:
        """Do nothing: packets come whole."""

    def close(self) -> None:
        """See Wire."""
        self._closing = True
        self._socket.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._watcher.join()
        self._log.close()


def _arguments(fd: int, spec: NetSpec) -> list[str]:
    # The template needs a link-local address for IPv6; passt uses nothing else of it.
    template = link_local_interface()
    ipv4 = ["--address", ADDRESS, "--netmask", str(PREFIX), "--gateway", GATEWAY]
    ipv6 = ["--address", ADDRESS6, "--gateway", GATEWAY6] if template else ["--ipv4-only"]
    options = ["--interface", template or "lo", "--mac-addr", GATEWAY_MAC, *ipv4, *ipv6]
    if not spec.host_loopback:
        options.append("--no-map-gw")
    for forward in spec.forwards:
        where = f"{forward.address}/{forward.host}:{forward.port}"
        options += [f"--{forward.protocol}-ports", where]
    return ["--foreground", "--quiet", "--stderr", "--fd", str(fd), *options]


def _check_free(forward: Forward) -> None:
    """Check the port here: passt reports a port in use only after it has started, on its own
    stderr."""
    family = socket.AF_INET6 if ":" in forward.address else socket.AF_INET
    kind = socket.SOCK_STREAM if forward.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as trial:
        if forward.protocol == "tcp":
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((forward.address, forward.host))
        except OSError as error:
            raise KvmxenError(
                f"--net user: the host's {forward.protocol} port {forward.host} at "
                f"{forward.address} is not available ({error.strerror}): choose another"
            ) from None


def link_local_interface(table: Path = Path("/proc/net/if_inet6")) -> str | None:
    """An interface with a link-local IPv6 address; None if the host has none."""
    try:
        rows = [row.split() for row in table.read_text().splitlines()]
    except FileNotFoundError:
        return None
    # Address, index, prefix length, scope, flags, name: Linux's net/ipv6/addrconf.c.
    return next((name for *_, scope, _flags, name in rows if int(scope, 16) == 0x20), None)
