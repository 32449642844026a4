"""Debian's kernel with its own xen-netfront, over passt and over a tap device on a bridge."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from kvmxen.backends.net.passt import ADDRESS, GATEWAY, GATEWAY6, link_local_interface
from tests import packages
from tests.e2e.domain import ROOT, SLOWNESS, Boot, Domain, Ramdisk
from tests.e2e.network import namespace, passt, servers
from tests.e2e.network.servers import Servers
from tests.lab.modules import modules

MIB = 1 << 20
# KVMXEN_TEST_FULL=1 for a GiB each way and ten thousand connections.
FULL = bool(os.environ.get("KVMXEN_TEST_FULL"))
SIZE = (1024 if FULL else 32) // SLOWNESS * MIB
CONNECTIONS = (10_000 if FULL else 300) // SLOWNESS
TIMEOUT = 1200 if FULL else 300
SOURCE = Path(__file__).parent / "network" / "client.c"

# The script that udhcpc runs; busybox has no other.
DHCP = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add $ip/$mask dev $interface
ip link set $interface mtu $mtu
ip route add default via $router
echo "[dhcp $ip/$mask $router mtu $mtu]"
"""
# No other guest has the same address.
START = """
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
insmod /bin/xen_netfront.ko
ip link set lo up
ip link set eth0 up
"""


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The client, DHCP's script, and the driver, for the guest."""
    folder = tmp_path_factory.mktemp("network")
    client = folder / "client"
    flags = ("-O2", "-static", "-Wall", "-Wextra", "-Werror")
    try:
        subprocess.run(
            ["gcc", *flags, "-o", str(client), str(SOURCE)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        loaded = modules("6.1", ("xen_netfront",))
    except FileNotFoundError:
        pytest.skip("needs gcc")
    except subprocess.CalledProcessError as error:
        if "cannot find -lc" in error.stderr:
            pytest.skip("needs a static C library (Debian's libc6-dev)")
        raise AssertionError(error.stderr) from error
    except packages.Unavailable as error:
        pytest.skip(f"needs Debian's xen-netfront: {error}")
    (folder / "dhcp").write_text(DHCP)
    for module in loaded:
        (folder / module.name).write_bytes(module.image)
    return [client, folder / "dhcp", *(folder / module.name for module in loaded)]


@pytest.fixture
def kernel(debian_kernel: Callable[[str], Path]) -> Path:
    return debian_kernel("6.1")


@pytest.fixture
def bridged() -> Iterator[namespace.Namespace]:
    """A namespace with a bridge, for a guest on a tap device."""
    try:
        made = namespace.Namespace()
    except namespace.Unavailable as error:
        pytest.skip(f"needs {error}")
    with made:
        yield made


def kvmxen(environment: dict[str, str], *arguments: str) -> str:
    """The output of a command; a guest may take time to release a device."""
    command = [sys.executable, "-m", "kvmxen", *arguments]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert result.returncode == 0 or "the guest still uses" in result.stderr, result.stderr
    return result.stdout


def figures(domain: Domain) -> dict[str, int]:
    """The interface's counts, after the guest has powered off."""
    domain.ends(0, TIMEOUT)
    counted: dict[str, int] = json.loads(domain.stderr.splitlines()[-1])["vif/0"]
    assert counted["tx_errors"] == counted["rx_errors"] == counted["tx_dropped"] == 0
    return counted


def assert_moved(domain: Domain, served: Servers) -> int:
    """Check that both ends saw the same bytes in either direction; return TCP's segment size."""
    match = domain.expect(r"(sent|received) (\d+) crc ([0-9a-f]{8})\n", TIMEOUT)
    what, size, total, segment = served.done.get(timeout=TIMEOUT)
    assert what == {"sent": "sink", "received": "source"}[match[1]]
    assert (size, total) == (int(match[2]), int(match[3], 16))
    assert size == SIZE
    return segment


def test_passt(
    boot: Boot,
    kernel: Path,
    ramdisk: Ramdisk,
    programs: list[Path],
    environment: dict[str, str],
) -> None:
    """DHCP, a name, data both ways, many connections, reloading the driver; one more card."""
    if lack := passt.why_not():
        pytest.skip(f"needs {lack}")
    # Guests get IPv6 through passt if the host has it.
    has_six = link_local_interface() is not None
    lease = rf"\[dhcp {ADDRESS}/24 {GATEWAY} mtu (\d+)\]"
    with Servers("127.0.0.1", "::1" if has_six else None, SIZE) as served:
        ports = served.ports
        six = f"""
            until ip address show dev eth0 scope global | grep -q inet6; do sleep 1; done
            client connect {GATEWAY6} {ports.get("hello6")} 20
        """
        script = f"""
            {START}
            lease() {{ udhcpc -i $1 -f -n -q -t 20 -T 5 -s /bin/dhcp 2>/dev/null; }}
            lease eth0
            nslookup -type=a {servers.NAME} {GATEWAY}:{ports["names"]}
            client receive {GATEWAY} {ports["source"]}
            client send {GATEWAY} {ports["sink"]} {SIZE}
            client connect {GATEWAY} {ports["hello"]} {CONNECTIONS}
            ip link set eth0 mtu 1500
            client send {GATEWAY} {ports["sink"]} {SIZE}
            {six if has_six else ""}
            # The driver counts its device as a use of the module.
            echo vif-0 >/sys/bus/xen/drivers/vif/unbind
            rmmod xen_netfront
            echo "[gone: $(ls /sys/class/net)]"
            {START}
            lease eth0
            client connect {GATEWAY} {ports["hello"]} 3
            echo "[one]"
            until [ -e /sys/class/net/eth1 ]; do sleep 1; done
            ip link set eth1 up
            lease eth1
            while [ -e /sys/class/net/eth1 ]; do sleep 1; done
            echo "[one again]"
            poweroff -f
        """
        domain = boot(
            kernel, "--ramdisk", ramdisk(script, *programs), "--cmdline", "console=hvc0 quiet",
            "--net", "user", "--name", "wired", "--stats=json", "--timeout", TIMEOUT,
        )  # fmt: skip
        # The largest MTU that IPv4 and passt support.
        assert int(domain.expect(lease)[1]) == 65520
        domain.expect(rf"Name:\s+{servers.NAME}\s+Address: {servers.ADDRESS}\s")
        assert assert_moved(domain, served) > 0
        assert assert_moved(domain, served) > 0
        domain.expect(rf"connected {CONNECTIONS} times\n", TIMEOUT)
        assert assert_moved(domain, served) > 0
        if has_six:
            domain.expect(r"connected 20 times\n")
        domain.expect(r"\[gone: lo\]")
        domain.expect(lease)
        domain.expect(r"connected 3 times\n")
        domain.expect(r"\[one\]")
        assert kvmxen(environment, "network-attach", "wired", "user") == "1\n"
        domain.expect(lease)
        kvmxen(environment, "network-detach", "wired", "1")
        domain.expect(r"\[one again\]")
        counted = figures(domain)
    # Large packets from the guest, which we cut.
    assert counted["tx_gso"] > 0
    assert counted["segments"] > counted["tx_gso"]
    assert counted["rx_bytes"] > SIZE
    assert "passt ended" not in domain.stderr


def test_what_passt_opens_and_closes(
    boot: Boot, kernel: Path, ramdisk: Ramdisk, programs: list[Path]
) -> None:
    """A port of the host leads to the guest, which cannot reach the host's loopback."""
    if lack := passt.why_not():
        pytest.skip(f"needs {lack}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Servers("127.0.0.1", None, SIZE) as served:
        script = f"""
            {START}
            udhcpc -i eth0 -f -n -q -t 20 -T 5 -s /bin/dhcp 2>/dev/null
            nc -w 3 {GATEWAY} {served.ports["hello"]} </dev/null && echo "[reached]"
            echo "[tried]"
            echo "from the guest" >/tmp/page
            httpd -p 8022 -h /tmp
            echo "[serving]"
            read done
            poweroff -f
        """
        domain = boot(
            kernel, "--ramdisk", ramdisk(script, *programs), "--cmdline", "console=hvc0 quiet",
            "--net", f"user,host-loopback=no,forward=tcp:{port}:8022", "--timeout", TIMEOUT,
        )  # fmt: skip
        assert "[reached]" not in domain.expect(r"(?s).*\[tried\]")[0]
        domain.expect(r"\[serving\]")
        with urlopen(f"http://127.0.0.1:{port}/page", timeout=TIMEOUT) as page:
            assert page.read() == b"from the guest\n"
        domain.send("\n")
        domain.ends(0, TIMEOUT)


def test_tap(
    boot: Boot,
    kernel: Path,
    ramdisk: Ramdisk,
    programs: list[Path],
    bridged: namespace.Namespace,
) -> None:
    """Jumbo frames, IPv6, offloads both ways and two queues, with a bridge of a namespace."""
    host, host6 = namespace.ADDRESS, namespace.ADDRESS6
    with bridged.run(lambda: Servers(host, host6, SIZE)) as served:
        ports = served.ports
        script = f"""
            {START}
            ip link set eth0 mtu {namespace.MTU}
            ip address add 192.0.2.2/24 dev eth0
            ip address add 2001:db8::2/64 dev eth0
            echo "[queues: $(ls -d /sys/class/net/eth0/queues/rx-* | wc -l)]"
            # The first may be lost until each knows the other's address.
            until ping -c 1 -s {namespace.MTU - 28} {host}; do :; done
            client receive {host} {ports["source"]}
            client send {host} {ports["sink"]} {SIZE}
            client receive {host6} {ports["source6"]}
            client send {host6} {ports["sink6"]} {SIZE}
            client connect {host} {ports["hello"]} {CONNECTIONS}
            client connect {host6} {ports["hello6"]} {CONNECTIONS}
            poweroff -f
        """
        image = ramdisk(script, *programs)
        domain = bridged.run(
            lambda: boot(
                kernel, "--ramdisk", image, "--cmdline", "console=hvc0 quiet", "--vcpus", 2,
                "--net", f"tap=kx0,bridge={namespace.BRIDGE},mac=00:16:3e:00:11:22",
                "--stats=json", "--timeout", TIMEOUT,
            )
        )  # fmt: skip
        domain.expect(r"\[queues: 2\]")
        domain.expect(r"1 packets transmitted, 1 packets received, 0% packet loss", TIMEOUT)
        for headers in (20, 20, 40, 40):
            # The size of a frame, less the headers of IP and TCP, and TCP's timestamps.
            assert assert_moved(domain, served) == namespace.MTU - headers - 20 - 12
        for _ in range(2):
            domain.expect(rf"connected {CONNECTIONS} times\n", TIMEOUT)
        counted = figures(domain)
    assert counted["tx_gso"] > 0
    assert counted["rx_gso"] > 0
    # Both were passed on whole, and not cut here.
    assert counted["segments"] == 0
