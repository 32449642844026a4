"""kvmxen-xl: what scripts that were written for xl read, and do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmxen import connect
from kvmxen.backends.terminal import ConsoleStream
from tests.conftest import need
from tests.e2e.domain import ROOT, Ramdisk
from tests.e2e.test_background import WAIT, Run, listed, run, states, until
from tests.packages import Suite

__all__ = ["run"]

Xl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The program by the name xl, as an installed one would be."""
    path = tmp_path / "bin" / "xl"
    path.parent.mkdir()
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from kvmxen.__main__ import main\nsys.exit(main())\n"
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def xl(run: Run, program: Path, environment: dict[str, str]) -> Xl:
    """xl(words, status=0): the program, which must end with that status."""

    def xl(*words: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [program, *words],
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=WAIT,
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return xl


@pytest.fixture
def file(tmp_path: Path, pv_grub: Path) -> Path:
    disk = tmp_path / "disk.img"
    disk.touch()
    os.truncate(disk, 1 << 20)
    file = tmp_path / "web.cfg"
    file.write_text(
        f'name = "web"\nkernel = "{pv_grub}"\nmemory = 64\nmaxmem = 128\nmaxvcpus = 2\n'
        f'disk = [ "{disk},raw,xvda,rw" ]\n'
    )
    return file


def instances(text: str) -> dict[str, tuple[int, int, int, str, float]]:
    """What Ganeti makes of xl list: six fields in each line but the first."""
    found = {}
    for line in text.splitlines()[1:]:
        name, number, memory, vcpus, state, seconds = line.split()
        found[name] = int(number), int(memory), int(vcpus), state, float(seconds)
    return found


def figures(text: str) -> dict[str, str]:
    """What Ganeti makes of xl info."""
    pairs = (line.split(":", 1) for line in text.splitlines())
    return {key.strip(): value.strip() for key, value in pairs}


def test_lists_as_scripts_read_them(xl: Xl, file: Path) -> None:
    xl("create", "--quiet", "--defconfig", file)
    told = xl("list").stdout
    assert told.startswith(
        "Name                                        ID   Mem VCPUs\tState\tTime(s)"
    )
    assert re.search(r"^web {37}     1    64     1     [r-]-----  {4,7}[0-9.]+$", told, re.M)
    found = instances(told)
    assert list(found) == ["Domain-0", "web"]
    assert found["Domain-0"][0] == 0
    info = figures(xl("info").stdout)
    # The guest's 64 MiB are free still, as nobody has touched them, and others use memory too.
    assert 0 < found["Domain-0"][1] < int(info["total_memory"]) - int(info["free_memory"]) + 512
    assert found["web"][:4] == (1, 64, 1, "r-----")
    assert instances(xl("list", "web").stdout).keys() == {"web"}
    long = xl("list", "-l").stdout
    # xendomains takes the lines one by one.
    assert re.findall(r'^        "domid": (.*),$', long, re.M) == ["0", "1"]
    assert re.findall(r'"name": "(.*)",$', long, re.M) == ["Domain-0", "web"]
    assert long.splitlines().count("    {") == 2
    (one,) = json.loads(xl("list", "--long", "web").stdout)
    assert one["config"]["b_info"]["max_memkb"] == 128 << 10
    assert str(one["config"]["c_info"]["uuid"]) in xl("list", "-v").stdout
    assert str(one["config"]["c_info"]["uuid"]) in xl("vm-list").stdout
    assert xl("domid", "web").stdout == "1\n"
    assert xl("domname", "1").stdout == "web\n"
    assert xl("domid", "Domain-0").stdout == "0\n"


def test_other_listings(xl: Xl, file: Path) -> None:
    told = figures(xl("info").stdout)
    keys = ("nr_cpus", "nr_nodes", "cores_per_socket", "threads_per_core", "xen_major", "xen_minor")
    assert all(int(told[key]) > 0 for key in keys)
    assert int(told["total_memory"]) >= int(told["free_memory"]) > 0
    xl("create", "-q", file)
    assert re.search(r"^web +1     0     - +r-- +[0-9.]+  all / all$", xl("vcpu-list").stdout, re.M)
    assert re.search(
        r"^web +1     1     - +--p +0.0  all / all$", xl("vcpu-list", "1").stdout, re.M
    )
    assert re.search(r"^web {30}    1  0:00:[0-9]{2}$", xl("uptime").stdout, re.M)
    assert re.fullmatch(r" [0-9:]{8} up  0:00, web \(1\)\n", xl("uptime", "-s", "web").stdout)
    disk = r"^51712 0   1 {6}[1-4] +-?[0-9]+ +-?[0-9]+ +/local/domain/0/backend/vbd/1/51712 *$"
    assert re.search(disk, xl("block-list", "web").stdout, re.M)
    assert xl("network-list", "web").stdout.startswith("Idx BE Mac Addr.")


def test_a_domain_is_changed(xl: Xl, run: Run, file: Path, tmp_path: Path) -> None:
    assert "Parsing config from" in xl("create", "-p", file).stderr
    assert states(run) == {"web": "paused"}
    assert instances(xl("list").stdout)["web"][3] == "--p---"
    xl("unpause", "web")
    xl("pause", "1")
    assert states(run) == {"web": "paused"}
    xl("mem-set", "web", "96")
    target = run("xenstore", "read", "web", "memory/target").stdout
    assert target == f"{96 << 10}\n"
    xl("mem-set", "web", "65536k")
    assert run("xenstore", "read", "web", "memory/target").stdout == f"{64 << 10}\n"
    assert "1 to 128 MiB (its maxmem)" in xl("mem-set", "web", "129", status=1).stderr
    xl("vcpu-set", "web", "2")
    assert run("xenstore", "read", "web", "cpu/1/availability").stdout == "online\n"
    xl("vcpu-set", "web", "1")
    assert run("xenstore", "read", "web", "cpu/1/availability").stdout == "offline\n"
    assert "can have 1 to 2 vCPUs" in xl("vcpu-set", "web", "3", status=1).stderr
    more = tmp_path / "more.img"
    more.touch()
    os.truncate(more, 1 << 20)
    xl("block-attach", "web", more, "raw", "xvdb", "rw")
    assert "51728" in xl("block-list", "web").stdout
    assert "has no disk xvdc" in xl("block-detach", "web", "xvdc", status=1).stderr
    xl("block-detach", "web", "51728", "--force")
    assert "51728" not in xl("block-list", "web").stdout
    assert "has no interface 0" in xl("network-detach", "web", "0", status=1).stderr
    xl("trigger", "web", "nmi")
    xl("destroy", "web")
    assert listed(run) == []


def test_interfaces_come_and_go(xl: Xl, file: Path) -> None:
    if shutil.which("passt") is None:
        pytest.skip("needs passt")
    xl("create", "-q", file)
    xl("network-attach", "web", "rate=10Mb/s")
    (row,) = xl("network-list", "web").stdout.splitlines()[1:]
    number, _, address, *_ = row.split()
    assert number == "0"
    (one,) = json.loads(xl("list", "-l", "web").stdout)
    assert [nic["rate_bytes_per_interval"] for nic in one["config"]["nics"]] == [62500]
    xl("network-detach", "web", address, "--force")
    assert len(xl("network-list", "web").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["destroy", "absent"], "absent is an invalid domain identifier"),
        (["destroy", "Domain-0"], "Domain-0 is this host itself"),
        (["list", "absent"], "absent is an invalid domain identifier"),
        (["domid", "absent"], "absent is an invalid domain identifier"),
        (["domname", "7"], "no domain has the id 7"),
        (["rename", "a", "b"], "xl's command rename is missing here"),
        (["save", "1", "file"], "xl's command save is missing here"),
        (["laugh"], "no such command 'laugh' (see xl --help)"),
        (["shutdown"], "give domains, or -a for all of them"),
        (["create", "a=1"], "give the file that describes the domain"),
        (["create", "/absent"], "No such file"),
        (["trigger", "web", "power"], "'power' is not 'nmi'"),
    ],
)
def test_a_failure_is_a_sentence_and_status_1(xl: Xl, words: list[str], sentence: str) -> None:
    assert sentence in xl(*words, status=1).stderr


def test_in_the_foreground_and_at_the_console(xl: Xl, run: Run, tmp_path: Path) -> None:
    import kvmxen.guests

    demo = Path(kvmxen.guests.__file__).with_name("demo.elf")
    file = tmp_path / "demo.cfg"
    file.write_text(f'name = "demo"\nkernel = "{demo}"\n')
    assert xl("create", "-q", "-F", file).stdout == ""
    assert listed(run) == []
    assert "null hypercall" in xl("create", "-q", "-c", file).stdout


def until_up(console: ConsoleStream) -> None:
    seen = b""
    while b"is up" not in seen:
        data = os.read(console.fileno(), 4096)
        assert data, seen
        seen += data


def test_a_linux_guest_is_asked(
    xl: Xl,
    run: Run,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    debian_kernel: Callable[[str], Path],
    ramdisk: Ramdisk,
) -> None:
    file = tmp_path / "web.cfg"
    script = "trap 'reboot -f' TERM; echo is up; while :; do sleep 0.2; done"
    file.write_text(
        f'name = "web"\nkernel = "{debian_kernel("6.1")}"\nmemory = 128\n'
        f'ramdisk = "{ramdisk(script)}"\n'
    )
    xl("create", "-q", file)
    monkeypatch.setenv("KVMXEN_RUNTIME_DIR", environment["KVMXEN_RUNTIME_DIR"])
    console = connect("web").open_console()
    until_up(console)
    assert xl("reboot", "-w", "web").stderr == "Rebooting domain 1\n"
    until_up(console)
    assert xl("shutdown", "-a", "-w").stderr == "Shutting down domain 1\n"
    assert listed(run) == []
    (one,) = listed(run, "--ended")
    assert one["end"] == "poweroff"


def test_xendomains_starts_and_stops_domains(
    xl: Xl,
    run: Run,
    program: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    debian_kernel: Callable[[str], Path],
    ramdisk: Ramdisk,
) -> None:
    """Debian's own script, but for the paths in it."""
    script = need(
        "Debian's xen-utils-4.17",
        lambda: Suite("bookworm").package("xen-utils-4.17", "usr/lib/xen-4.17/bin/xendomains"),
    )
    auto, defaults = tmp_path / "auto", tmp_path / "defaults"
    auto.mkdir()
    (auto / "web.cfg").write_text(
        f'name = "web"\nkernel = "{debian_kernel("6.1")}"\nmemory = 128\n'
        f'ramdisk = "{ramdisk("echo is up; while :; do sleep 0.2; done")}"\n'
    )
    defaults.write_text(
        f"XENDOMAINS_AUTO={auto}\nXENDOMAINS_SHUTDOWN=--wait\nXENDOMAINS_SAVE=\n"
        "XENDOMAINS_SHUTDOWN_ALL='--all --wait'\nXENDOMAINS_STOP_MAXWAIT=120\n"
    )
    ours = tmp_path / "xendomains"
    ours.write_text(
        script.read_text()
        .replace(
            ". /etc/xen/scripts/hotplugpath.sh",
            f"sbindir={program.parent} bindir=/absent XEN_LOCK_DIR={tmp_path}/lock",
        )
        .replace("/dev/xen/privcmd", os.devnull)
        .replace("/etc/default/xendomains", str(defaults))
    )

    def xendomains(word: str) -> str:
        done = subprocess.run(
            ["bash", ours, word],
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=WAIT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "Starting auto Xen domains: web.cfg" in xendomains("start")
    assert states(run) == {"web": "running"}
    assert "Checking for xendomains: web" in xendomains("status")
    monkeypatch.setenv("KVMXEN_RUNTIME_DIR", environment["KVMXEN_RUNTIME_DIR"])
    until_up(connect("web").open_console())
    assert "web(shut)" in xendomains("stop").replace(" ", "")
    until(lambda: listed(run) == [])
    (one,) = listed(run, "--ended")
    assert one["end"] == "poweroff"
