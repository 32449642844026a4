"""How a boot ends and where its console goes, with guests that boot in a moment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from xml.etree import ElementTree

from tests.e2e.domain import LIMIT, Boot
from tests.unit.loader.images import ENTRY, Load, elf

STATS = {
    "exits": dict,
    "exits_total": int,
    "hypercalls": dict,
    "dispatched_in_guest": dict,
    "events": dict,
    "grants": dict,
    "vcpu/0": dict,
    "build_ns": int,
    "run_ns": int,
    "guest_ns": int,
    "process_cpu_ns": int,
    "max_rss_kib": int,
}


def test_demo(boot: Boot) -> None:
    domain = boot("--timeout", LIMIT)
    domain.ends(0)
    assert "null hypercall" in domain.output
    assert domain.stderr == ""


def test_grub_reaches_its_prompt(boot: Boot, pv_grub: Path) -> None:
    domain = boot(pv_grub, "--timeout", LIMIT, tty=True)
    domain.expect("grub> ")
    domain.send("echo $grub_cpu-$grub_platform\r")
    domain.expect("x86_64-xen")
    domain.send("halt\r")
    domain.ends(0)


def test_second_sigterm_destroys(boot: Boot, pv_grub: Path) -> None:
    # GRUB ignores requests to shut down.
    domain = boot(pv_grub, "--timeout", LIMIT)
    domain.expect("grub> ")
    domain.process.terminate()
    domain.expect_stderr("repeat to destroy it")
    domain.process.terminate()
    domain.ends(130)
    assert "Traceback" not in domain.stderr


def test_a_guest_that_does_not_shut_down_in_time_is_destroyed(boot: Boot, pv_grub: Path) -> None:
    domain = boot(pv_grub, "--timeout", LIMIT, "--shutdown-timeout", "0.5")
    domain.expect("grub> ")
    domain.process.terminate()
    domain.ends(130)
    assert "the guest has not shut down in 0.5 seconds: destroying it" in domain.stderr


def test_a_preserved_guest_ends_with_its_process(boot: Boot) -> None:
    domain = boot("--timeout", LIMIT, "--on-poweroff", "preserve")
    domain.expect_stderr("is preserved: interrupt or destroy it")
    domain.process.terminate()
    domain.ends(130)


def test_the_result_in_a_file(boot: Boot, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    boot("--timeout", LIMIT, "--name", "good", "--result", path).ends(0)
    result = json.loads(path.read_text())
    assert result.pop("seconds") > 0
    assert result.pop("began") > 0
    assert result == {"name": "good", "end": "poweroff", "status": 0, "reason": "", "report": ""}
    boot("absent", "--name", "bad", "--result", path).ends(1)
    result = json.loads(path.read_text())
    assert (result["name"], result["end"], result["status"]) == ("bad", "failed", 1)
    assert "absent" in result["reason"]


def test_the_result_as_junit(boot: Boot, tmp_path: Path) -> None:
    path = tmp_path / "result.xml"
    kernel = tmp_path / "crashing"
    kernel.write_bytes(elf(loads=[Load(data=b"\x90" * (ENTRY % 0x1000) + b"\x0f\x0b")]))
    boot(kernel, "--timeout", LIMIT, "--name", "bad", "--result", path).ends(3)
    suite = ElementTree.parse(path).getroot()
    assert (suite.tag, suite.attrib["tests"], suite.attrib["failures"]) == ("testsuite", "1", "1")
    (case,) = suite
    assert case.attrib["name"] == "bad"
    (failure,) = case
    assert failure.attrib["type"] == "crash"
    assert "kvmxen: the guest crashed: " in (failure.text or "")
    boot("--timeout", LIMIT, "--name", "good", "--result", path).ends(0)
    (case,) = ElementTree.parse(path).getroot()
    assert list(case) == []


def test_a_result_that_cannot_be_written(boot: Boot, tmp_path: Path) -> None:
    domain = boot("--result", tmp_path / "absent" / "result.json")
    domain.ends(1)
    assert "cannot write the --result file" in domain.stderr


def test_escape_key_twice_destroys(boot: Boot, pv_grub: Path) -> None:
    domain = boot(pv_grub, "--timeout", LIMIT, tty=True)
    domain.expect("grub> ")
    domain.send("\x1d\x1d")
    domain.ends(130)


def test_timeout(boot: Boot, pv_grub: Path) -> None:
    domain = boot(pv_grub, "--timeout", 2)
    domain.ends(4)
    assert "time limit" in domain.stderr


def test_console_in_a_file(boot: Boot, tmp_path: Path) -> None:
    log = tmp_path / "guest.log"
    domain = boot("--console", f"file:{log}", "--timeout", LIMIT)
    domain.ends(0)
    assert "null hypercall" in log.read_text()
    assert domain.output == ""


def test_no_console(boot: Boot) -> None:
    domain = boot("--console", "none", "--timeout", LIMIT)
    domain.ends(0)
    assert domain.output == domain.stderr == ""


def test_console_on_a_pty(boot: Boot, pv_grub: Path) -> None:
    domain = boot(pv_grub, "--console", "pty", "--timeout", LIMIT)
    path = domain.expect_stderr(r"the console is (/dev/pts/\d+)\n")[1]
    terminal = os.open(path, os.O_RDWR | os.O_NOCTTY)
    try:
        read = b""
        while b"grub> " not in read:
            read += os.read(terminal, 4096)
        os.write(terminal, b"halt\r")
        domain.ends(0)
    finally:
        os.close(terminal)


def test_stats_for_a_program(boot: Boot) -> None:
    domain = boot("--stats=json", "--timeout", LIMIT)
    domain.ends(0)
    stats = json.loads(domain.stderr)
    assert {key: type(value) for key, value in stats.items()} == STATS
    assert stats["exits_total"] >= sum(stats["exits"].values()) > 0
    assert stats["hypercalls"]["sched_op"] >= 1
    assert all(stats[key] > 0 for key in STATS if key.endswith("_ns"))


def test_stats_in_a_file(boot: Boot, tmp_path: Path) -> None:
    domain = boot(f"--stats=json:{tmp_path}/stats", "--timeout", LIMIT)
    domain.ends(0)
    stats = json.loads((tmp_path / "stats").read_text())
    assert stats["hypercalls"]["sched_op"] >= 1
    assert domain.stderr == ""


def test_stats_for_a_person(boot: Boot) -> None:
    domain = boot("--stats", "--timeout", LIMIT)
    domain.ends(0)
    for name in ("exits_total", "hypercalls:", "events:", "guest"):
        assert name in domain.stderr


def test_debug(boot: Boot) -> None:
    domain = boot("--debug", "--timeout", LIMIT)
    domain.ends(0)
    assert "vcpu0: sched_op(" in domain.stderr
