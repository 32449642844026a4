from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.config import Config, ConsoleSpec
from kvmxen.config.cloud_init import CloudInit
from kvmxen.config.sizes import MIB, host_memory, parse_size
from kvmxen.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512 * MIB),
        ("512M", 512 * MIB),
        ("512m", 512 * MIB),
        ("1048576K", 1 << 30),
        ("2G", 2 << 30),
        (" 64 ", 64 * MIB),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5G", "1T", "0x10", "1 G", "٣", "9" * 13, "1MB"])
def test_not_a_size(text: str) -> None:
    with pytest.raises(UsageError, match="is not a memory size"):
        parse_size(text)


@given(st.text())
def test_any_text_is_a_size_or_a_usage_error(text: str) -> None:
    with suppress(UsageError):
        assert parse_size(text) >= 0


def test_host_memory(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       24103000 kB\nMemFree:        1 kB\n")
    assert host_memory(meminfo) == 24103000 << 10
    assert host_memory() > MIB


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("stdio", ConsoleSpec("stdio")),
        ("pty", ConsoleSpec("pty")),
        ("none", ConsoleSpec("none")),
        ("file:/tmp/a:b", ConsoleSpec("file", Path("/tmp/a:b"))),
    ],
)
def test_consoles(text: str, spec: ConsoleSpec) -> None:
    assert ConsoleSpec.parse(text) == spec


@pytest.mark.parametrize("text", ["", "file", "file:", "pty:", "stdio:x", "Stdio", "/dev/tty"])
def test_unknown_console(text: str) -> None:
    with pytest.raises(UsageError, match=r"unknown console .*stdio, pty, file:PATH or none"):
        ConsoleSpec.parse(text)


def test_defaults() -> None:
    config = Config(name="a")
    assert config.kernel is None
    assert config.memory == 512 * MIB
    assert config.vcpus == 1
    assert config.console == ConsoleSpec("stdio")
    assert (config.on_poweroff, config.on_reboot, config.on_crash) == (
        "destroy",
        "restart",
        "destroy",
    )


KERNEL = Path("vmlinuz")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"vcpus": 0}, "vcpus must be 1 to 64, not 0"),
        ({"vcpus": 1000}, "vcpus must be 1 to 64, not 1000"),
        ({"memory": 0}, "memory 0 MiB is too small: give at least 32 MiB"),
        ({"memory": 31 * MIB}, "memory 31 MiB is too small"),
        ({"memory": 64 * MIB + 1}, "multiple of 4096 bytes"),
        ({"max_memory": 64 * MIB}, "max_memory 64 MiB is less than memory: give at least 512 MiB"),
        ({"max_memory": 1024 * MIB + 1}, "max_memory must be a multiple of 4096 bytes"),
        ({"max_memory": 1 << 60}, "max_memory .* is more than this host has"),
        ({"vcpus": 3, "max_vcpus": 2}, "max_vcpus must be 3, the number of vcpus, to 64"),
        ({"max_vcpus": 65}, "max_vcpus must be 1, the number of vcpus, to 64, not 65"),
        ({"memory": 1 << 60}, "is more than this host has: give at most [0-9]+ MiB"),
        ({"name": ""}, "cannot name a domain"),
        ({"name": "."}, "cannot name a domain"),
        ({"name": ".."}, "cannot name a domain"),
        ({"name": "a/b"}, "cannot name a domain"),
        ({"name": "a\n"}, "cannot name a domain"),
        ({"name": "ä"}, "cannot name a domain"),
        ({"name": "-a"}, "cannot name a domain"),
        ({"name": "a" * 65}, "cannot name a domain"),
        ({"cmdline": "x" * 1024}, "at most 1023 bytes"),
        ({"cmdline": "ä" * 512}, "at most 1023 bytes"),
        ({"cmdline": os.fsdecode(b"\xe9" * 1024)}, "at most 1023 bytes"),
        ({"cmdline": "a\0b"}, "printable text"),
        ({"cmdline": "a\ud800b"}, "printable text"),
        ({"cmdline": os.fsdecode(b"\xe9\x1b")}, "printable text"),
        ({"cmdline": "a\nb"}, "printable text"),
        ({"shell": True}, "shell needs a kernel"),
        ({"cloud_init": CloudInit(KERNEL)}, "cloud_init needs a system: give kernel or a disk"),
        ({"ramdisk": Path("rd")}, "ramdisk needs a kernel"),
        ({"kernel": KERNEL, "shell": True, "ramdisk": Path("rd")}, "not both"),
    ],
)
def test_usage_errors(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        Config(**{"name": "a", **wrong})
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("name", ["a", "domain-1", "Debian_12.x+y", "a" * 64, "+", "_"])
def test_names(name: str) -> None:
    assert Config(name=name).name == name


def test_a_command_line_need_not_be_utf8() -> None:
    text = os.fsdecode(b"init=/caf\xe9 \xff")
    assert Config(name="a", cmdline=text).cmdline == text


def test_longest_cmdline_and_largest_number_of_vcpus() -> None:
    config = Config(name="a", cmdline="x" * 1023, vcpus=64, memory=32 * MIB)
    assert (len(config.cmdline), config.vcpus) == (1023, 64)
