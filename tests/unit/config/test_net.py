"""--net: what a person types."""

from __future__ import annotations

import pytest

from kvmxen.config.net import Forward, NetSpec, Rate, generate_mac
from kvmxen.errors import UsageError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("none", None),
        ("user", NetSpec("user")),
        ("tap", NetSpec("tap")),
        ("tap=tap0", NetSpec("tap", "tap0")),
        ("tap=a-b.c_1,bridge=br0", NetSpec("tap", "a-b.c_1", "br0")),
        ("user,mac=00:16:3E:aa:BB:cc", NetSpec("user", mac="00:16:3e:aa:bb:cc")),
        ("tap,rate=8Mb/s,bridge=b", NetSpec("tap", bridge="b", rate=Rate(50_000, 50_000))),
        ("user,host-loopback=no", NetSpec("user", host_loopback=False)),
        ("user,host-loopback=yes", NetSpec("user")),
        (
            "user,forward=tcp:2222:22,forward=udp:0.0.0.0:53:5353,forward=tcp:[::1]:80:8080",
            NetSpec(
                "user",
                forwards=(
                    Forward("tcp", "127.0.0.1", 2222, 22),
                    Forward("udp", "0.0.0.0", 53, 5353),
                    Forward("tcp", "::1", 80, 8080),
                ),
            ),
        ),
    ],
)
def test_interfaces(text: str, spec: NetSpec | None) -> None:
    assert NetSpec.parse(text) == spec


@pytest.mark.parametrize(
    "text",
    [
        "",
        "users",
        "user=x",
        "tap=",
        "tap=sixteen.letters.",
        "tap=a/b",
        "tap=..",
        "tap,bridge=",
        "tap,bridge=a b",
        "user,bridge=br0",
        "none,mac=00:16:3e:00:00:01",
        "user,mac=00:16:3e",
        "user,mac=01:16:3e:00:00:01",
        "user,mac=00:00:00:00:00:00",
        "user,mac=00:16:3e:00:00:01,mac=00:16:3e:00:00:02",
        "user,speed=1",
        "user,",
        "user,rate=fast",
        "user,host-loopback=maybe",
        "user,host-loopback=no,host-loopback=no",
        "tap,host-loopback=no",
        "tap,forward=tcp:1:1",
        "user,forward=",
        "user,forward=tcp:22",
        "user,forward=sctp:1:1",
        "user,forward=tcp:0:22",
        "user,forward=tcp:2222:65536",
        "user,forward=tcp:10.0.0.256:1:1",
        "user,forward=tcp:localhost:1:1",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(UsageError):
        NetSpec.parse(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10Mb/s", Rate(62_500, 50_000)),
        ("250KB/s", Rate(12_500, 50_000)),
        ("1GB/s@20ms", Rate(20_000_000, 20_000)),
        ("100b/s@10s", Rate(120, 10_000_000)),
        ("1mB/s@500us", Rate(500, 500)),
    ],
)
def test_rates(text: str, rate: Rate) -> None:
    assert Rate.parse(text) == rate


@pytest.mark.parametrize(
    "text", ["", "10", "10M", "10Mb", "Mb/s", "1Tb/s", "0b/s", "1b/s", "1B/s@"]
)
def test_no_rates(text: str) -> None:
    with pytest.raises(UsageError):
        Rate.parse(text)


def test_addresses_are_stable_and_each_its_own() -> None:
    assert generate_mac("one", 0) == generate_mac("one", 0)
    made = [generate_mac(name, index) for name in ("one", "two") for index in (0, 1)]
    assert len(set(made)) == 4
    assert all(mac.startswith("00:16:3e:") and len(mac) == 17 for mac in made)
