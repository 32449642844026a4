"""The server of libvirt's RPC, driven by Debian's own virsh and Python bindings."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests import libvirt_tools
from tests.e2e.disks import empty_image
from tests.e2e.domain import ROOT
from tests.e2e.libvirt_server import WAIT, Server, kvmxen
from tests.packages import Unavailable

Virsh = Callable[..., str]


def command_of(suite: str) -> list[str]:
    try:
        return libvirt_tools.virsh(suite)
    except Unavailable as error:
        pytest.skip(f"needs virsh: {error}")


@pytest.fixture(params=["bookworm", "trixie"])
def virsh(request: pytest.FixtureRequest, server: Server) -> Virsh:
    """virsh(words, status=0): the output of virsh, which must end with that status."""
    command = [*command_of(request.param), "-c", server.uri]

    def virsh(*words: str | Path, status: int = 0) -> str:
        done = subprocess.run(
            [*command, *words],
            env=server.environment | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        assert done.returncode == status, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    return virsh


@pytest.fixture
def xml(tmp_path: Path, pv_grub: Path) -> Path:
    """A domain "web" with a disk, whose guest waits at a prompt."""
    disk = empty_image(tmp_path / "disk.img", 1)
    path = tmp_path / "web.xml"
    path.write_text(
        f"""
        <domain type="xen">
          <name>web</name>
          <memory unit="MiB">64</memory>
          <vcpu>1</vcpu>
          <os><type arch="x86_64" machine="xenpv">linux</type><kernel>{pv_grub}</kernel></os>
          <features><acpi/><apic/><pae/></features>
          <devices>
            <emulator>/usr/bin/anything</emulator>
            <disk type="file" device="disk">
              <driver name="qemu" type="raw"/>
              <source file="{disk}"/>
              <target dev="xvda" bus="xen"/>
            </disk>
            <console type="pty"/>
          </devices>
        </domain>
        """
    )
    return path


def table(text: str) -> list[list[str]]:
    """The cells of a table of virsh's, without its header."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.strip().splitlines()[2:]]


def test_the_life_of_a_domain(virsh: Virsh, xml: Path) -> None:
    assert table(virsh("list", "--all")) == []
    assert "Domain 'web' defined" in virsh("define", xml)
    assert table(virsh("list", "--all")) == [["-", "web", "shut off"]]
    assert "shut off" in virsh("domstate", "web")
    assert "Domain 'web' started" in virsh("start", "web")
    assert table(virsh("list")) == [["1", "web", "running"]]
    assert "is already active" in virsh("start", "web", status=1)
    assert virsh("domid", "web").strip() == "1"
    uuid = virsh("domuuid", "web").strip()
    assert virsh("domname", uuid).strip() == "web"
    assert "suspended" in virsh("suspend", "web")
    assert "paused (user)" in virsh("domstate", "web", "--reason")
    assert "resumed" in virsh("resume", "web")
    assert "running (booted)" in virsh("domstate", "web", "--reason")
    assert "is being shutdown" in virsh("shutdown", "web")
    assert "destroyed" in virsh("destroy", "web")
    # It has ended when destroy returns, so that it can be started again at once.
    assert "started" in virsh("start", "web", "--paused")
    assert table(virsh("list")) == [["2", "web", "paused"]]
    virsh("destroy", "web")
    assert "shut off (destroyed)" in virsh("domstate", "web", "--reason")
    assert "has been undefined" in virsh("undefine", "web")
    assert "failed to get domain 'web'" in virsh("domstate", "web", status=1)


def test_a_domain_without_a_definition(virsh: Virsh, xml: Path) -> None:
    assert "created from" in virsh("create", xml)
    assert re.search(r"Persistent: +no", virsh("dominfo", "web"))
    assert re.search(r"State: +running", virsh("dominfo", "web"))
    virsh("destroy", "web")
    assert table(virsh("list", "--all")) == []


def test_questions(virsh: Virsh, xml: Path, tmp_path: Path) -> None:
    assert "Running hypervisor: Xen 4.17" in virsh("version")
    assert virsh("hostname").strip() == socket.gethostname()
    assert re.search(r"CPU model: +x86_64", virsh("nodeinfo"))
    assert "<machine>xenpv</machine>" in virsh("capabilities")
    assert "<domain>xen</domain>" in virsh("domcapabilities")
    assert virsh("maxvcpus").strip() == "64"
    virsh("freecell")
    virsh("nodecpustats")
    virsh("nodememstats")
    for empty in ("net-list", "iface-list", "nodedev-list", "nwfilter-list", "secret-list"):
        assert len(virsh(empty).strip().splitlines()) <= 2
    virsh("define", xml)
    virsh("start", "web")
    described = virsh("dominfo", "web")
    for key, value in (("OS Type", "linux"), ("Max memory", "65536 KiB"), ("Autostart", "disable")):
        assert re.search(rf"{key}: +{value}", described)
    assert table(virsh("domblklist", "web")) == [["xvda", str(tmp_path / "disk.img")]]
    assert "xvda rd_req" in virsh("domblkstat", "web", "xvda")
    assert re.search(r"Capacity: +1048576", virsh("domblkinfo", "web", "xvda"))
    stats = virsh("domstats", "web")
    for wanted in ("state.state=1", "balloon.maximum=65536", "block.0.name=xvda", "vcpu.maximum=1"):
        assert wanted in stats
    assert "actual 65536" in virsh("dommemstat", "web")
    assert re.search(r"current +live +1", virsh("vcpucount", "web"))
    assert re.search(r"State: +running", virsh("vcpuinfo", "web"))
    assert virsh("ttyconsole", "web").startswith("/dev/pts/")
    assert "ok" in virsh("domcontrol", "web")
    assert "not supported by kvmxen" in virsh("managedsave", "web", status=1)


def test_what_is_not_done_is_refused_by_its_path(virsh: Virsh, xml: Path) -> None:
    text = xml.read_text()
    for before, after, path in (
        ("<console", "<hostdev mode='subsystem'/><console", "/domain/devices/hostdev"),
        ("<vcpu>", "<vcpu cpuset='0'>", "/domain/vcpu/@cpuset (0)"),
        ("</features>", "<hyperv/></features>", "/domain/features/hyperv"),
        ('bus="xen"', 'bus="virtio"', "/domain/devices/disk/target/@bus (virtio)"),
        ('machine="xenpv"', 'machine="xenfv"', "/domain/os/type/@machine (xenfv)"),
    ):
        xml.write_text(text.replace(before, after))
        assert f"kvmxen does not do {path}" in virsh("define", xml, status=1)
    xml.write_text("<!DOCTYPE d [<!ENTITY e 'x'>]><domain>&e;</domain>")
    assert "DOCTYPE" in virsh("define", xml, status=1)
    assert table(virsh("list", "--all")) == []


def test_files_of_xl_are_translated(virsh: Virsh, xml: Path, tmp_path: Path) -> None:
    virsh("define", xml)
    file = tmp_path / "web.cfg"
    file.write_text(virsh("domxml-to-native", "xen-xl", "--domain", "web").strip() + "\n")
    assert 'name = "web"' in file.read_text()
    again = tmp_path / "again.xml"
    again.write_text(virsh("domxml-from-native", "xen-xl", file))
    virsh("undefine", "web")
    virsh("define", again)
    assert virsh("domxml-to-native", "xen-xl", "--domain", "web").strip() in file.read_text()
    assert "not 'xen-xm'" in virsh("domxml-from-native", "xen-xm", file, status=1)
    with file.open("a") as more:
        more.write("memroy = 5\n")
    assert "memroy" in virsh("domxml-from-native", "xen-xl", file, status=1)


def test_a_definition_is_changed(virsh: Virsh, xml: Path, tmp_path: Path) -> None:
    virsh("define", xml)
    second = empty_image(tmp_path / "second.img", 1)
    virsh("attach-disk", "web", second, "xvdb", "--config")
    assert len(table(virsh("domblklist", "web"))) == 2
    virsh("detach-disk", "web", "xvdb", "--config")
    assert len(table(virsh("domblklist", "web"))) == 1
    virsh("setmaxmem", "web", "128M", "--config")
    virsh("setvcpus", "web", "2", "--config", "--maximum")
    virsh("autostart", "web")
    described = virsh("dominfo", "web")
    assert re.search(r"Max memory: +131072 KiB", described)
    assert re.search(r"Autostart: +enable", described)
    virsh("desc", "web", "--title", "a web server")
    assert "a web server" in virsh("list", "--all", "--title")
    virsh("domrename", "web", "web2")
    assert table(virsh("list", "--all", "--autostart")) == [["-", "web2", "shut off"]]


def test_memory_and_vcpus_of_a_running_domain(virsh: Virsh, server: Server, xml: Path) -> None:
    """The guest is asked by its xenstore; PV GRUB has no balloon."""
    xml.write_text(xml.read_text().replace("<vcpu>1<", "<vcpu current='1'>2<"))
    virsh("define", xml)
    virsh("setmaxmem", "web", "128M", "--config")
    virsh("start", "web")

    def node(path: str) -> str:
        return kvmxen(server.environment, "xenstore", "read", "web", path).strip()

    virsh("setmem", "web", "96M")
    assert node("memory/target") == str(96 << 10)
    assert "1 to 128 MiB" in virsh("setmem", "web", "129M", status=1)
    virsh("setvcpus", "web", "2", "--live", "--config")
    assert node("cpu/1/availability") == "online"
    assert re.search(r"<vcpu(?![^>]*current)[^>]*>2</vcpu>", virsh("dumpxml", "web", "--inactive"))
    assert "1 to 2 vCPUs" in virsh("setvcpus", "web", "3", status=1)
    assert "maximum" in virsh("setmaxmem", "web", "256M", "--live", status=1)


def test_flags_that_mean_nothing_here_are_refused(virsh: Virsh, xml: Path) -> None:
    virsh("define", xml)
    assert "unsupported flags (0x2)" in virsh("start", "web", "--autodestroy", status=1)
    virsh("start", "web", "--force-boot")
    assert "unsupported flags (0x2)" in virsh("shutdown", "web", "--mode", "agent", status=1)
    assert table(virsh("list"))[0][1:] == ["web", "running"]


def test_devices_of_a_running_domain(virsh: Virsh, xml: Path, tmp_path: Path) -> None:
    virsh("create", xml, "--paused")
    second = empty_image(tmp_path / "second.img", 1)
    virsh("attach-disk", "web", second, "xvdb")
    assert table(virsh("domblklist", "web"))[1] == ["xvdb", str(second)]
    assert "is in use" in virsh("attach-disk", "web", second, "xvdc", status=1)
    assert "the guest of web still uses the device" in virsh("detach-disk", "web", "xvdb", status=1)


def test_pools_and_volumes(virsh: Virsh, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    virsh("pool-define-as", "images", "dir", "--target", folder)
    virsh("pool-build", "images")
    virsh("pool-start", "images")
    assert table(virsh("pool-list"))[0][:2] == ["images", "active"]
    virsh("vol-create-as", "images", "a.img", "1M")
    assert (folder / "a.img").stat().st_size == 1 << 20
    assert table(virsh("vol-list", "images")) == [["a.img", str(folder / "a.img")]]
    assert "1.00 MiB" in virsh("vol-info", "--pool", "images", "a.img")
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1 << 20))
    virsh("vol-upload", "--pool", "images", "a.img", source)
    assert (folder / "a.img").read_bytes() == source.read_bytes()
    assert "cannot name a volume" in virsh("vol-create-as", "images", "../b", "1M", status=1)
    virsh("vol-delete", "--pool", "images", "a.img")
    assert not (folder / "a.img").exists()
    virsh("pool-destroy", "images")
    virsh("pool-undefine", "images")
    assert table(virsh("pool-list", "--all")) == []


def test_a_domain_of_kvmxen_boot_is_seen(virsh: Virsh, server: Server, pv_grub: Path) -> None:
    kvmxen(server.environment, "boot", str(pv_grub), "--detach", "--name", "other")
    assert table(virsh("list")) == [["1", "other", "running"]]
    virsh("destroy", "other")
    assert table(virsh("list", "--all")) == []


def test_domains_outlive_the_server(virsh: Virsh, server: Server, xml: Path) -> None:
    virsh("define", xml)
    virsh("start", "web")
    server.stop(signal.SIGKILL)
    server.start()
    assert table(virsh("list")) == [["1", "web", "running"]]
    virsh("destroy", "web")
    assert "shut off (destroyed)" in virsh("domstate", "web", "--reason")


def test_a_second_server_says_so(server: Server) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "kvmxen", "server", "--socket", server.path],
        cwd=ROOT,
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert second.returncode == 1
    assert f"another server listens at {server.path}" in second.stderr


_KNOCK = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
call = bytes.fromhex("0000001c 20008086 00000001 00000042 00000000 00000000 00000000")
try:
    client.sendall(call)
    print(len(client.recv(100)))
except (BrokenPipeError, ConnectionResetError):
    print("refused")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_is_refused(server: Server) -> None:
    def knock(user: int) -> str:
        with TemporaryDirectory() as folder:
            # The path lets everybody in, so that only the server can refuse.
            Path(folder).chmod(0o755)
            link = Path(folder, "sock")
            server.path.chmod(0o666)
            os.link(server.path, link)
            done = subprocess.run(
                ["/usr/bin/python3", "-c", _KNOCK, link],
                user=user,
                cwd="/",
                capture_output=True,
                text=True,
                check=True,
                timeout=WAIT,
            )
        return done.stdout.strip()

    assert int(knock(os.geteuid())) > 28
    assert knock(65534) in ("0", "refused")


def test_a_server_ends_in_order(server: Server) -> None:
    server.stop()
    assert server.process.returncode == 0
    assert not server.path.exists()
    server.start()


def test_a_server_without_clients_ends(environment: dict[str, str], tmp_path: Path) -> None:
    environment["XDG_CONFIG_HOME"] = str(tmp_path / "config")
    command = [sys.executable, "-m", "kvmxen", "server", "--timeout", "1", "--socket"]
    path = tmp_path / "virtxend.sock"
    subprocess.run([*command, path], cwd=ROOT, env=environment, check=True, timeout=WAIT)
    assert not path.exists()


def test_each_event_comes_once(server: Server, xml: Path) -> None:
    command = [*command_of("bookworm"), "-c", server.uri]
    with subprocess.Popen(
        [*command, "event", "--all", "--loop"],
        env=server.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as listener:
        assert listener.stdout
        script = "".join(
            f"create {xml}; destroy web\n" if n % 2 else f"create {xml} --paused; destroy web\n"
            for n in range(100)
        )
        # Its own first event shows that it listens.
        rounds = [f"define {xml}; undefine web\n"]
        lines: list[str] = []
        while not lines:
            _batch(command, rounds[0], server)
            if select.select([listener.stdout], [], [], 1)[0]:
                lines.append(listener.stdout.readline())
        _batch(command, script, server)
        time.sleep(1)
        listener.send_signal(signal.SIGINT)
        told = [line.partition("': ")[2].strip() for line in listener.stdout]
    life = [event for event in told if not event.startswith(("Defined", "Undefined"))]
    one = ["Started Booted", "Suspended Paused", "Stopped Destroyed"]
    assert [event for event in life if event] == [*one, one[0], one[2]] * 50


def _batch(command: list[str], script: str, server: Server) -> None:
    subprocess.run(
        command,
        env=server.environment,
        input=script,
        stdout=subprocess.DEVNULL,
        text=True,
        check=True,
        timeout=WAIT,
    )


def test_a_person_at_the_console(server: Server, virsh: Virsh, xml: Path) -> None:
    virsh("create", xml)
    first = Person(server)
    first.until(b"grub> ")
    first.type(b"echo by virsh\r")
    first.until(b"\n\rby virsh")
    second = Person(server)
    second.until(b"the console of web is in use")
    third = Person(server, "--force")
    third.until(b"grub> ")
    first.ends()
    third.type(b"\x1d")
    third.ends()
    last = Person(server)
    last.until(b"grub> ")
    last.type(b"halt\r")
    last.ends()
    assert table(virsh("list", "--all")) == []


class Person:
    """A person with a terminal, at virsh console."""

    def __init__(self, server: Server, *more: str) -> None:
        self._keyboard, terminal = pty.openpty()
        self._process = subprocess.Popen(
            [*command_of("bookworm"), "-c", server.uri, "console", "web", *more],
            env=server.environment,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        self._seen = b""

    def type(self, data: bytes) -> None:
        os.write(self._keyboard, data)

    def until(self, text: bytes) -> None:
        end = time.monotonic() + WAIT
        while text not in self._seen:
            assert time.monotonic() < end, self._seen
            if select.select([self._keyboard], [], [], 1)[0]:
                self._seen += self._read()
        self._seen = self._seen.partition(text)[2]

    def ends(self) -> None:
        end = time.monotonic() + WAIT
        while self._process.poll() is None:
            assert time.monotonic() < end, self._seen
            if select.select([self._keyboard], [], [], 0.1)[0]:
                self._read()
        os.close(self._keyboard)

    def _read(self) -> bytes:
        try:
            return os.read(self._keyboard, 4096)
        except OSError:
            # virsh has gone.
            return b""


PYTHON = """
import libvirt, sys, time
libvirt.virEventRegisterDefaultImpl()
connection = libvirt.open(sys.argv[1])
text = open(sys.argv[2]).read()
for number in range(1000):
    connection.defineXML(text.replace("<name>web<", "<name>n%d<" % number))
begin = time.monotonic()
assert len(connection.listAllDomains()) == 1000
took = time.monotonic() - begin
domain = connection.lookupByName("n7")
told = []
connection.domainEventRegisterAny(
    None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda c, d, e, detail, o: told.append(e), None)
domain.create()
stream = connection.newStream()
domain.openConsole(None, stream, 0)
seen = b""
while b"grub> " not in seen:
    seen += stream.recv(4096)
stream.send(b"echo through a stream\\r")
while b"through a stream" not in seen.partition(b"grub> ")[2]:
    seen += stream.recv(4096)
stream.finish()
assert domain.isActive() and domain.blockStats("xvda")[0] >= 0
(stats,) = connection.getAllDomainStats(flags=libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE)
assert stats[1]["block.0.name"] == "xvda"
domain.destroy()
while libvirt.VIR_DOMAIN_EVENT_STOPPED not in told:
    libvirt.virEventRunDefaultImpl()
assert told[0] == libvirt.VIR_DOMAIN_EVENT_STARTED
for one in connection.listAllDomains():
    one.undefine()
print("listed", took)
"""


def test_python_with_libvirts_bindings(server: Server, xml: Path, tmp_path: Path) -> None:
    try:
        python = libvirt_tools.python_with_libvirt()
    except Unavailable as error:
        pytest.skip(f"needs python3-libvirt: {error}")
    # No disk can be 1000 domains' at once, but definitions may name it.
    (tmp_path / "script.py").write_text(PYTHON)
    done = subprocess.run(
        [*python.command, tmp_path / "script.py", server.uri, xml],
        env=server.environment | python.environment,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("listed ")
