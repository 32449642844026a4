"""The ends of the list of Debian's kernels: the oldest that is supported, and the newest."""

from __future__ import annotations

import pytest

from tests import packages
from tests.conftest import need
from tests.e2e.domain import LIMIT, Boot, Ramdisk
from tests.e2e.test_linux import assert_healthy

KERNELS = {"oldest": packages.oldest_kernel, "newest": packages.newest_kernel}


@pytest.mark.parametrize("age", KERNELS)
@pytest.mark.parametrize("vcpus", [1, 4])
def test_it_boots_works_and_powers_off(boot: Boot, ramdisk: Ramdisk, age: str, vcpus: int) -> None:
    kernel = need(f"Debian's {age} kernel", KERNELS[age])
    image = ramdisk('echo "CPUS=$(nproc)."; dmesg; echo "[end]"; poweroff -f\n')
    options = ("--cmdline", "console=hvc0 quiet", "--vcpus", vcpus, "--timeout", LIMIT)
    domain = boot(kernel, "--ramdisk", image, *options)
    assert int(domain.expect(r"CPUS=(\d+)\.")[1]) == vcpus
    assert_healthy(domain.expect(r"(.*)\[end\]")[1])
    domain.ends(0)
