"""The programs above libvirt, as Debian has them: virt-install and its like, Ansible, Prometheus'
exporter."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests import libvirt_tools
from tests.e2e.disks import empty_image, make_ramdisk
from tests.e2e.libvirt_server import WAIT, Server
from tests.e2e.network.servers import free_port
from tests.libvirt_tools import Tool
from tests.packages import Unavailable

Run = Callable[..., str]
INSTALL = (
    "--memory", "64", "--vcpus", "1", "--import", "--paravirt", "--graphics", "none",
    "--osinfo", "detect=off,require=off", "--noautoconsole",
)  # fmt: skip
# Copies the cloud-init seed, the second disk, to the first, once its file is gone on the host.
COPY = """
read -r line
dd if=/dev/xvdb of=/dev/xvda bs=64k 2>/dev/null
sync
poweroff -f
"""


@pytest.fixture
def run(server: Server) -> Run:
    """run(tool, *words): the output of a tool, which must succeed."""

    def run(tool: Callable[[], Tool | list[str]], *words: str | Path) -> str:
        try:
            found = tool()
        except Unavailable as error:
            pytest.skip(f"needs Debian's virt tools: {error}")
        found = found if isinstance(found, Tool) else Tool(found)
        done = subprocess.run(
            [*found.command, *words],
            env=server.environment | {"LC_ALL": "C.UTF-8"} | found.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def virt(run: Run, server: Server) -> Run:
    """virt("virt-install", *words)"""
    return lambda program, *words: run(
        lambda: libvirt_tools.virtinst(program), "--connect", server.uri, *words
    )


@pytest.fixture
def virsh(run: Run, server: Server) -> Run:
    """virsh(*words)"""
    return lambda *words: run(lambda: libvirt_tools.virsh("bookworm"), "-c", server.uri, *words)


@pytest.fixture
def pool(virsh: Run, tmp_path: Path) -> Path:
    """The folder of the storage pool "images"."""
    folder = tmp_path / "pool"
    folder.mkdir()
    virsh("pool-create-as", "images", "dir", "--target", folder)
    return folder


def test_virt_install_edit_and_clone(virt: Run, virsh: Run, pool: Path, pv_grub: Path) -> None:
    disk = ("--disk", "size=0.01,pool=images,format=raw")
    boot = ("--boot", f"kernel={pv_grub},kernel_args=some=words")
    said = virt("virt-install", "--name", "web", *INSTALL, *boot, *disk, "--network", "user")
    assert "Domain creation completed." in said
    assert virsh("domstate", "web").strip() == "running"
    assert "some=words" in virsh("dumpxml", "web")
    assert "user" in virsh("domiflist", "web")
    virsh("destroy", "web")
    assert "defined successfully" in virt("virt-xml", "web", "--edit", "--memory", "80")
    assert " 81920 KiB" in virsh("dominfo", "web")
    (pool / "web.img").write_bytes(b"what the disk had".ljust(10 << 20, b"\0"))
    said = virt("virt-clone", "-o", "web", "-n", "twin", "--auto-clone")
    assert "'twin' created successfully" in said
    assert str(pool / "twin.img") in virsh("domblklist", "twin")
    assert (pool / "twin.img").read_bytes() == (pool / "web.img").read_bytes()
    virsh("start", "twin")
    virsh("start", "web")
    uuids = {virsh("domuuid", name) for name in ("web", "twin")}
    assert len(uuids) == 2


def test_virt_install_with_a_cloud_init_seed(
    virt: Run,
    virsh: Run,
    server: Server,
    pool: Path,
    debian_kernel: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """virt-install removes the seed as soon as the domain runs; the guest has it all the same."""
    ramdisk = make_ramdisk(tmp_path / "initrd", "6.1", COPY)
    user = tmp_path / "user-data"
    user.write_text("#cloud-config\nhostname: of-the-seed\n")
    empty_image(pool / "copy.img", 8)
    boot = f"kernel={debian_kernel('6.1')},initrd={ramdisk},kernel_args=console=hvc0 quiet"
    virt(
        "virt-install", "--name", "seeded", *INSTALL, "--memory", "256", "--boot", boot,
        "--disk", pool / "copy.img", "--cloud-init", f"user-data={user}", "--network", "none",
    )  # fmt: skip
    (seed,) = (
        line.split()[1] for line in virsh("domblklist", "seeded").splitlines() if "xvdb" in line
    )
    assert not Path(seed).exists()
    with subprocess.Popen(
        [sys.executable, "-m", "kvmxen", "console", "seeded"],
        env=server.environment,
        stdin=subprocess.PIPE,
    ) as console:
        console.communicate(b"go\n", timeout=WAIT)
    assert "shut off" in virsh("domstate", "seeded")
    assert b"hostname: of-the-seed" in (pool / "copy.img").read_bytes()


@pytest.fixture
def task(run: Run, server: Server, tmp_path: Path) -> Callable[..., Any]:
    """task(**arguments): the result of Ansible's community.libvirt.virt."""
    try:
        python = libvirt_tools.python_with_libvirt().script(tmp_path / "python")
    except Unavailable as error:
        pytest.skip(f"needs python3-libvirt: {error}")
    server.environment |= {
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / "ansible"),
        "ANSIBLE_REMOTE_TEMP": str(tmp_path / "ansible"),
    }

    def task(**arguments: str) -> Any:
        said = run(
            libvirt_tools.ansible, "localhost", "-i", "localhost,", "-c", "local",
            "-e", f"ansible_python_interpreter={python}", "-m", "community.libvirt.virt",
            "-a", json.dumps(arguments | {"uri": server.uri}),
        )  # fmt: skip
        return json.loads(said)["plays"][0]["tasks"][0]["hosts"]["localhost"]

    return task


def test_ansible(task: Callable[..., Any], pv_grub: Path) -> None:
    xml = f"""
        <domain type="xen">
          <name>web</name><memory unit="MiB">64</memory><vcpu>1</vcpu>
          <os><type arch="x86_64" machine="xenpv">linux</type><kernel>{pv_grub}</kernel></os>
          <devices><console type="pty"/></devices>
        </domain>"""
    task(command="define", xml=xml)
    assert task(command="list_vms")["list_vms"] == ["web"]
    assert task(name="web", command="status")["status"] == "shutdown"
    assert task(name="web", state="running")["changed"]
    assert not task(name="web", state="running")["changed"]
    assert task(command="info")["web"]["state"] == "running"
    assert task(name="web", state="paused")["changed"]
    assert task(name="web", command="status")["status"] == "paused"
    task(name="web", command="unpause")
    assert "<name>web</name>" in task(name="web", command="get_xml")["get_xml"]
    assert task(name="web", state="destroyed")["changed"]
    task(name="web", command="undefine")
    assert task(command="list_vms")["list_vms"] == []


def test_prometheus_exporter(server: Server, virt: Run, pool: Path, pv_grub: Path) -> None:
    disk = empty_image(pool / "d.img", 1)
    virt(
        "virt-install", "--name", "web", *INSTALL, "--boot", f"kernel={pv_grub}",
        "--disk", disk, "--network", "none",
    )  # fmt: skip
    try:
        command = libvirt_tools.exporter()
    except Unavailable as error:
        pytest.skip(f"needs prometheus-libvirt-exporter: {error}")
    address = f"127.0.0.1:{free_port()}"
    with subprocess.Popen(
        [*command, f"--libvirt.uri={server.uri}", f"--web.listen-address={address}"],
        env=server.environment,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            figures = _scrape(f"http://{address}/metrics")
        finally:
            process.kill()
    assert figures["libvirt_up"] == 1
    web = {name: value for name, value in figures.items() if 'domain="web"' in name}
    by_name = {name.partition("{")[0]: value for name, value in web.items()}
    assert by_name["libvirt_domain_state_code"] == 1
    assert by_name["libvirt_domain_info_maximum_memory_bytes"] == 64 << 20
    assert by_name["libvirt_domain_info_virtual_cpus"] == 1
    assert by_name["libvirt_domain_info_cpu_time_seconds_total"] > 0
    # PV GRUB has looked for partitions.
    assert by_name["libvirt_domain_block_stats_read_requests_total"] > 0


def _scrape(url: str) -> dict[str, float]:
    end = time.monotonic() + WAIT
    while True:
        try:
            with urlopen(url) as answer:
                lines = answer.read().decode().splitlines()
        except URLError:
            assert time.monotonic() < end
            time.sleep(0.05)
        else:
            pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
            return {name: float(value) for name, _, value in pairs}
