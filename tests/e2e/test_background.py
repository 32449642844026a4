"""Domains in the background, and the commands that list, watch, change and end them."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.domain import PATIENCE, ROOT, SLOWNESS, Boot, Shell

WAIT = PATIENCE * SLOWNESS

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(kvm: None, environment: dict[str, str]) -> Iterator[Run]:
    """run(words, status=0): the command kvmxen, which must end with that status."""

    def run(*words: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "kvmxen", *words],
            cwd=ROOT,
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

    yield run
    for one in listed(run):
        run("destroy", str(one["name"]))


def listed(run: Run, *words: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run("list", "--json", *words).stdout)
    return found


def states(run: Run) -> dict[object, object]:
    return {one["name"]: one["state"] for one in listed(run)}


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_life_in_the_background(run: Run, pv_grub: Path, tmp_path: Path) -> None:
    disk = tmp_path / "a disk.img"
    disk.touch()
    os.truncate(disk, 1 << 20)
    started = run("boot", pv_grub, "--detach", "--name", "web", "--disk", disk, "--memory", "64")
    assert (started.stdout, started.stderr) == ("web\n", "")
    # Its files are open when the command returns, so that nobody needs their names any more.
    disk.unlink()
    (one,) = listed(run)
    assert (one["name"], one["id"], one["state"], one["memory"]) == ("web", 1, "running", 64)
    assert one["disks"] == [{"target": "xvda", "path": str(disk)}]
    # It is nobody's child.
    parent = Path(f"/proc/{one['pid']}/stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) != os.getpid()
    run("pause", "1")
    assert states(run) == {"web": "paused"}
    run("unpause", str(one["uuid"]))
    assert states(run) == {"web": "running"}
    late = run("shutdown", "web", "--timeout", "0.2", status=1)
    assert late.stderr == "kvmxen: still running: web; kvmxen destroy ends them at once\n"
    told = json.loads(run("info", "1", "--json").stdout)
    assert (told["name"], told["uuid"], told["on_crash"]) == ("web", one["uuid"], "destroy")
    assert f"disks        xvda {disk}\n" in run("info", "web").stdout
    run("destroy", "web")
    assert listed(run) == []
    assert "end          destroyed\n" in run("info", "web").stdout
    assert "no domain named nobody" in run("info", "nobody", status=1).stderr
    (ended,) = listed(run, "--ended")
    assert (ended["name"], ended["end"], ended["uuid"]) == ("web", "destroyed", one["uuid"])
    gone = run("pause", "web", status=1)
    assert "no domain named web is running" in gone.stderr


def test_what_cannot_be_started_is_told_at_once(run: Run, pv_grub: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent.img"
    failed = run("boot", pv_grub, "--detach", "--name", "web", "--disk", absent, status=1)
    assert str(absent) in failed.stderr
    assert failed.stderr.count("\n") == 1
    wrong = run("boot", pv_grub, "--detach", "--name", "web", "--memory", "1", status=2)
    assert "--memory" in wrong.stderr
    assert listed(run) == listed(run, "--ended") == []
    run("boot", pv_grub, "--detach", "--name", "web")
    twice = run("boot", pv_grub, "--detach", "--name", "web", status=1)
    assert "a domain named web is already running" in twice.stderr


def test_killed_domains_are_found_out(run: Run, pv_grub: Path) -> None:
    run("boot", pv_grub, "--detach", "--name", "web")
    (one,) = listed(run)
    os.kill(int(str(one["pid"])), signal.SIGKILL)
    until(lambda: listed(run) == [])
    assert [ended["end"] for ended in listed(run, "--ended")] == ["killed"]
    run("boot", pv_grub, "--detach", "--name", "web")
    assert [one["id"] for one in listed(run)] == [2]


def test_one_that_is_started_paused_runs_when_it_is_told_to(run: Run) -> None:
    run("boot", "--detach", "--name", "demo", "--paused")
    assert states(run) == {"demo": "paused"}
    time.sleep(0.3)
    (one,) = listed(run)
    assert one["time"] == 0
    run("unpause", "demo")
    until(lambda: listed(run) == [])
    assert [ended["end"] for ended in listed(run, "--ended")] == ["poweroff"]


def test_a_crash_that_nobody_saw_can_be_read(run: Run, tmp_path: Path) -> None:
    from tests.unit.loader.images import ENTRY, Load, elf

    kernel = tmp_path / "crashing"
    kernel.write_bytes(elf(loads=[Load(data=b"\x90" * (ENTRY % 0x1000) + b"\x0f\x0b")]))
    run("boot", kernel, "--detach", "--name", "bad")
    until(lambda: listed(run) == [])
    (ended,) = listed(run, "--ended")
    assert ended["end"] == "crash"
    assert "kvmxen: the guest crashed: " in str(ended["report"])
    log = (tmp_path / "state" / "kvmxen" / "log" / "bad.log").read_text()
    assert log.startswith("kvmxen: the guest crashed: ")


def test_a_linux_guest_is_asked(
    boot: Boot, run: Run, busybox_found: None, debian_kernel: Callable[[str], Path]
) -> None:
    domain = boot(debian_kernel("6.1"), "--shell", "--name", "linux", "--timeout", 280, tty=True)
    shell = Shell(domain)
    shell.run("dmesg -n 7; echo 1 > /proc/sys/kernel/sysrq")
    run("sysrq", "linux", "h")
    domain.expect("sysrq: HELP")
    run("sysrq", "linux", "hh", status=2)
    before = int(shell.run("grep NMI: /proc/interrupts").split()[1])
    run("nmi", "linux")
    until(lambda: int(shell.run("grep NMI: /proc/interrupts").split()[1]) > before)
    run("shutdown", "linux")
    domain.ends(0)


def test_a_person_at_the_console(run: Run, environment: dict[str, str], pv_grub: Path) -> None:
    run("boot", pv_grub, "--detach", "--name", "web")
    keyboard, terminal = pty.openpty()
    command = [sys.executable, "-m", "kvmxen", "console", "web"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=terminal, stdout=terminal, stderr=terminal
    ) as person:
        os.close(terminal)
        seen = read_until(keyboard, b"grub> ")
        os.write(keyboard, b"echo from here\r")
        seen = read_until(keyboard, b"\n\rfrom here")
        watched = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert watched.stdout
        assert watched.stderr
        assert b"somebody else types" in watched.stderr.readline()
        assert b"from here" in read_until(watched.stdout.fileno(), b"from here")
        os.write(keyboard, b"\x1d")
        assert person.wait(WAIT) == 0
    os.close(keyboard)
    assert seen
    assert states(run) == {"web": "running"}
    run("destroy", "web")
    assert watched.wait(WAIT) == 0
    assert b"the console of web has ended" in watched.stderr.read()
    watched.stdout.close()
    watched.stderr.close()


def read_until(fd: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        more = os.read(fd, 4096)
        assert more, seen
        seen += more
    return seen


def test_readiness(environment: dict[str, str], boot: Boot, tmp_path: Path) -> None:
    """As systemd hears of it, and by the end of a descriptor."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(WAIT)
        environment["NOTIFY_SOCKET"] = str(path)
        domain = boot("--timeout", "280")
        assert systemd.recv(64) == b"READY=1\n"
        domain.ends(0)
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "kvmxen", "boot", "--ready-fd", str(write), "--timeout", "280"],
        cwd=ROOT,
        env=environment,
        pass_fds=[write],
        stdout=subprocess.DEVNULL,
    ) as process:
        os.close(write)
        with open(read, "rb") as ready:  # noqa: PTH123 - a descriptor
            assert ready.read() == b"\n"
        assert process.wait(WAIT) == 0
