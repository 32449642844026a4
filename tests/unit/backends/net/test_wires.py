"""passt and tap devices: the messages for a person if the host lacks something."""

from __future__ import annotations

import errno
import io
import os
import socket
import sys
from pathlib import Path

import pytest

from kvmxen.backends.net import passt, tap
from kvmxen.backends.net.passt import Passt
from kvmxen.backends.net.tap import Tap
from kvmxen.backends.net.vif import Offloads
from kvmxen.config.net import Forward, NetSpec
from kvmxen.errors import KvmxenError
from tests.unit.backends.fake_domain import wait_until

# Prints its arguments, and reads everything until its socket is closed.
SINK = """\
#!{python}
import os, sys
with open("{log}", "w") as log:
    print(*sys.argv, file=log)
while os.read(int(sys.argv[sys.argv.index("--fd") + 1]), 1 << 16):
    pass
"""
WHOLE = Offloads(csum=True, csum6=True, tso4=True, tso6=True)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Installs a passt that a test writes."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = tmp_path / "passt"
    path.touch(0o755)
    return path


def test_no_passt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KvmxenError, match="needs passt, which is not installed: install"):
        Passt("vif0", NetSpec("user"))


def test_passt_gets_its_socket_and_ends_with_it(program: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program.write_text(SINK.format(python=sys.executable, log=log))
    wire = Passt("vif0", NetSpec("user"))
    wait_until(lambda: log.exists() and bool(log.read_text()))
    wire.set_offloads(WHOLE)
    wire.close()
    arguments = log.read_text().split()
    assert "--foreground" in arguments
    assert arguments[arguments.index("--address") + 1] == passt.ADDRESS
    assert arguments[arguments.index("--gateway") + 1] == passt.GATEWAY
    assert "--no-map-gw" not in arguments


def test_what_passt_is_told_of_the_host(program: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program.write_text(SINK.format(python=sys.executable, log=log))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    forward = Forward("tcp", "127.0.0.1", port, 22)
    wire = Passt("vif0", NetSpec("user", host_loopback=False, forwards=(forward,)))
    wait_until(lambda: log.exists() and bool(log.read_text()))
    wire.close()
    arguments = log.read_text().split()
    assert "--no-map-gw" in arguments
    assert arguments[arguments.index("--tcp-ports") + 1] == f"127.0.0.1/{port}:22"


def test_a_passt_that_ends_is_told_of(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program.write_text("#!/bin/sh\necho one line >&2\necho the reason >&2\nexit 7\n")
    # pytest's own capture loses what another thread writes while it is read.
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    wire = Passt("vif3", NetSpec("user"))
    wait_until(lambda: "vif3" in said.getvalue())
    wire.close()
    assert said.getvalue().strip() == (
        "kvmxen: passt ended with status 7 (the reason); vif3 has lost its network"
    )


def test_a_passt_that_is_killed_is_told_of(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program.write_text("#!/bin/sh\necho a harmless line >&2\nkill -9 $$\n")
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    wire = Passt("vif3", NetSpec("user"))
    wait_until(lambda: "vif3" in said.getvalue())
    wire.close()
    assert said.getvalue().strip() == (
        "kvmxen: passt was killed by signal 9 (Killed); vif3 has lost its network"
    )


def test_a_port_that_is_taken(program: Path) -> None:
    program.write_text("#!/bin/sh\nexit 0\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        spec = NetSpec("user", forwards=(Forward("tcp", "127.0.0.1", port, 22),))
        with pytest.raises(KvmxenError, match=f"tcp port {port} at 127.0.0.1 is not available"):
            Passt("vif0", spec)


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("", None),
        ("00000000000000000000000000000001 01 80 10 80       lo\n", None),
        (
            "00000000000000000000000000000001 01 80 10 80       lo\n"
            "fd000000000000000000000000000002 04 40 00 82     eth0\n"
            "fe8000000000000000fc00fffe000001 04 40 20 80     eth1\n",
            "eth1",
        ),
    ],
)
def test_the_template_for_ipv6(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, name: str | None
) -> None:
    path = tmp_path / "if_inet6"
    assert passt.link_local_interface(path) is None
    path.write_text(table)
    assert passt.link_local_interface(path) == name


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (errno.EPERM, r"no permission to use a tap device: run as root, or have root make one"),
        (
            errno.EBUSY,
            r"the tap device tap7 is in use by another process: stop it, or give another",
        ),
        (errno.EINVAL, r"cannot use the tap device tap7 .*must be a tap device with vnet_hdr"),
    ],
)
def test_no_tap_device(monkeypatch: pytest.MonkeyPatch, code: int, sentence: str) -> None:
    def ioctl(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.ioctl", ioctl)
    monkeypatch.setattr(tap, "DEVICE", "/dev/null")
    with pytest.raises(KvmxenError, match=sentence):
        Tap("tap7")


def test_no_tun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tap, "DEVICE", str(tmp_path / "none"))
    with pytest.raises(KvmxenError, match=r"cannot open .* \(No such file or directory\): run as"):
        Tap()
