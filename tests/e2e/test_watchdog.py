"""Linux's driver of Xen's watchdog."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import packages
from tests.e2e.domain import LIMIT, Boot, Ramdisk
from tests.lab.modules import modules

VERSION = "6.12"
SECONDS = 8


def test_a_guest_lives_while_it_sets_its_watchdog(
    boot: Boot, debian_kernel: Callable[[str], Path], ramdisk: Ramdisk, tmp_path: Path
) -> None:
    kernel = debian_kernel(VERSION)
    try:
        drivers = modules(VERSION, ["xen_wdt"])
    except packages.Unavailable as error:
        pytest.skip(f"needs Debian's module xen_wdt: {error}")
    paths = [tmp_path / driver.name for driver in drivers]
    for driver, path in zip(drivers, paths, strict=True):
        path.write_bytes(driver.image)
    script = f"""
        {"".join(f"insmod /bin/{path.name}; " for path in paths[:-1])}
        insmod /bin/{paths[-1].name} timeout={SECONDS}
        exec 3>/dev/watchdog
        for second in $(seq {SECONDS + 4}); do
            echo >&3
            sleep 1
        done
        echo "[alive]"
        sleep {100 * SECONDS}
    """
    image = ramdisk(script, *paths)
    domain = boot(kernel, "--ramdisk", image, "--cmdline", "console=hvc0 quiet", "--timeout", LIMIT)
    domain.expect(r"\[alive\]")
    domain.ends(3)
    assert "the guest crashed: it did not reset its watchdog 1 in time\n" in domain.stderr
