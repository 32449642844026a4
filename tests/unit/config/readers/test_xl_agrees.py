"""What real xl reads of the same files.

xl of Xen 4.17 prints its reading without a hypervisor, if the functions that would ask one are
answered by a library of our own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvmxen import Config, DiskSpec, NetSpec
from kvmxen.config.readers.xl import read, write
from kvmxen.config.readers.xl_json import as_json
from kvmxen.errors import UsageError
from tests.packages import Unavailable
from tests.unit.config.readers.test_xl import DISKS, NETS
from tests.xen_tools import xl_program

OPENS = ["xencall", "xenforeignmemory", "xendevicemodel", "xenevtchn", "xengnttab"]
STUBS = "".join(
    f"""
    void *{name}_open(void *logger, unsigned flags) {{ return malloc(64); }}
    int {name}_close(void *handle) {{ return 0; }}
    """
    for name in (*OPENS, "xc_interface")
)
SOURCE = f"""
#include <stdlib.h>
{STUBS}
void *xs_open(unsigned long flags) {{ return malloc(64); }}
void xs_close(void *handle) {{}}
int xs_fileno(void *handle) {{ return 0; }}
char *xs_read(void *h, unsigned t, const char *path, unsigned *size) {{ return 0; }}
char **xs_directory(void *h, unsigned t, const char *path, unsigned *count) {{ return 0; }}
int xc_get_max_cpus(void *handle) {{ return 4; }}
int xc_get_max_nodes(void *handle) {{ return 1; }}
int xc_physinfo(void *handle, void *info) {{ return 0; }}
int xc_version(void *handle, int command, void *info) {{ return command ? 0 : 0x40011; }}
int libxl_get_physinfo(void *context, void *info) {{ return 0; }}
"""

Xl = Callable[[str], dict[str, Any] | None]


@pytest.fixture(scope="session")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Xl:
    """xl(text): what xl reads of a file, None if it refuses the file."""
    try:
        programs = xl_program()
    except Unavailable as error:
        pytest.skip(f"needs xl: {error}")
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("xl")
    (folder / "stubs.c").write_text(SOURCE)
    library = folder / "stubs.so"
    subprocess.run([gcc, "-shared", "-fPIC", "-o", library, folder / "stubs.c"], check=True)
    environment = programs.environment(LD_PRELOAD=str(library))

    def xl(text: str) -> dict[str, Any] | None:
        (folder / "f.cfg").write_text(text)
        done = subprocess.run(
            [programs.paths["xl"], "-f", "create", "-n", "-q", folder / "f.cfg"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            assert "symbol lookup" not in done.stderr, done.stderr
            return None
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return xl


def both(text: str, xl: Xl) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Xl's reading and ours, reduced to what both have."""
    theirs = xl(text)
    try:
        ours: dict[str, Any] | None = as_json(read(text, "f").config)
    except UsageError:
        ours = None
    return theirs and _reduced(theirs, text), ours and _reduced(ours, text)


def _reduced(found: dict[str, Any], text: str) -> dict[str, Any]:
    build, created = found["b_info"], found["c_info"]
    keys: tuple[str, ...] = (
        "kernel",
        "ramdisk",
        "cmdline",
        "max_vcpus",
        "avail_vcpus",
        "target_memkb",
        "max_memkb",
    )
    # Xen chooses other sizes than we do if the file gives none.
    if "memory" not in text and "maxmem" not in text:
        keys = keys[:5]
    if "vcpus" not in text:
        keys = tuple(key for key in keys if "vcpus" not in key)
    reduced = {key: build.get(key) or "" for key in keys}
    reduced["name"] = created["name"]
    reduced["uuid"] = created.get("uuid") if "uuid" in text else None
    for key in ("on_poweroff", "on_reboot", "on_crash"):
        # xl leaves out an action that is its first.
        reduced[key] = found.get(key, "destroy")
    reduced["disks"] = [
        {"format": "raw", "readwrite": 0, "is_cdrom": 0}
        | {
            key: disk[key]
            for key in ("pdev_path", "vdev", "format", "readwrite", "is_cdrom")
            if key in disk
        }
        for disk in found.get("disks", [])
    ]
    nics = ("devid", "mac", "bridge", "ifname", "rate_bytes_per_interval", "rate_interval_usecs")
    reduced["nics"] = [
        {key: nic[key] for key in nics if key in nic} for nic in found.get("nics", [])
    ]
    return reduced


LEAST = "name='web'\nkernel='/k'\n"


@pytest.mark.parametrize(
    "more",
    [
        "",
        "memory=64;vcpus=2\n",
        "memory=0x40\nmaxmem=0100\n",
        "memory='64'\nvcpus=3\nmaxvcpus=4\n",
        "root='/dev/xvda1'\nextra='quiet'\n",
        "extra='quiet'\ncmdline='c'\n",
        'cmdline="a \\"q\\" \\\\"\n',
        "cmdline='a'\ncmdline+='b'\n",
        "uuid='c7a5fdb2-cdaf-9455-926a-d65c16db1809'\nramdisk='/r'\n",
        "disk=['/x,raw,xvda,rw','/y,qcow2,xvdb,r',]\ndisk+=['/z,,xvdc,cdrom']\n",
        "disk=['phy:/dev/vg/x,xvda,w','file:/y,hda,r']\n",
        "disk=['format=raw,vdev=xvda,access=ro,target=/a,b']\n",
        "disk=['/x,,xvda,,backendtype=qdisk']\n",
        "disk=['file:x.img,xvda,w','phy:y,xvdb,r','tap:qcow2:/z,xvdc,w','qcow2:/q,xvdd,w']\n",
        "disk=['tap:aio:/x,xvda,w','tap2:aio:/y,xvdb,w','raw:/z,xvdc,w']\n",
        "disk=['/x,raw,xvda:cdrom,r','/y,raw,xvdb:disk,w','file:/z,ioemu:hda,w']\n",
        "disk=[' /x, raw,\txvda, rw','/y,raw,xvdb,rw,direct-io-safe']\n",
        "disk=['devtype=cdrom,vdev=xvda,access=w,target=/x']\n",
        "vif=['','mac=00:16:3E:00:00:01,bridge=b,rate=10Mb/s','vifname=v,rate=1GB/s@20ms']\n",
        "on_crash='preserve'\non_poweroff='restart'\non_reboot='destroy'\n",
        "acpi=1\npae=0\nlocaltime=1 # c\n",
    ],
)
def test_files_that_both_read(xl: Xl, more: str) -> None:
    theirs, ours = both(LEAST + more, xl)
    assert theirs is not None
    assert ours == theirs


@pytest.mark.parametrize(
    "text",
    [
        "kernel='k'\n",
        "name='a'\n",
        *(
            LEAST + more
            for more in (
                "memory=64*2\n",
                "memory=-1\n",
                "memory=512MB\n",
                "memory=1 vcpus=2\n",
                "import os\n",
                "Memory=1\n",
                "x=(1,2)\n",
                "x='it''s'\n",
                "x='open\n",
                "x=\n1\n",
                "x=[,]\n",
                'x="\\q"\n',
                "vcpus=4\nmaxvcpus=2\n",
                "uuid='zz'\n",
                "uuid='c7a5fdb2cdaf9455926ad65c16db1809'\n",
                "on_crash=''\n",
                "on_crash='laugh'\n",
                "disk=['/x']\n",
                "disk=['/x,raw,xvda,rw ']\n",
            )
        ),
    ],
)
def test_files_that_neither_reads(xl: Xl, text: str) -> None:
    assert both(text, xl) == (None, None)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.text(st.sampled_from("ab \"'\\\\#,;[]=é"), max_size=12),
    st.lists(DISKS, max_size=3, unique=True),
    st.lists(NETS, max_size=2),
)
def test_xl_reads_what_we_write(
    xl: Xl, cmdline: str, disks: list[DiskSpec], nets: list[NetSpec]
) -> None:
    config = Config(
        name="web",
        uuid=UUID(int=5),
        kernel=Path("/a 'b\""),
        cmdline=cmdline,
        max_memory=1 << 30,
        disks=tuple(disks),
        nets=tuple(nets),
    )
    text = write(config)
    theirs = xl(text)
    assert theirs is not None
    assert _reduced(theirs, text) == _reduced(as_json(config), text)


TEXTS = st.text(st.sampled_from("ab /=,.-+"), max_size=8).map(repr)
NUMBERS = st.integers(1, 4).map(str)
SIZES = st.sampled_from(["64", "0x60", "0100", "'128'"])
DISK = st.sampled_from(
    [
        "'/a,raw,xvda,rw'",
        "'/b,,xvdb,r'",
        "'vdev=xvdc,format=qcow2,target=/c'",
        "'phy:/d,xvdd,w'",
        "'tap:qcow2:/e, xvde:cdrom, r'",
        "' file:f, xvdf, w'",
    ]
)
VIF = st.sampled_from(
    [
        "''",
        "'mac=00:16:3e:00:00:02'",
        "'bridge=x'",
        "'rate=250KB/s,bridge=y'",
        "' vifname=z, mac=00:16:3e:00:00:03'",
    ]
)


def listed(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    separators = st.sampled_from([",", ", ", ",\n  ", " , # note\n"])
    return st.tuples(st.lists(items, max_size=3, unique=True), separators).map(
        lambda pair: f"[ {pair[1].join(pair[0])} ]"
    )


LINES = st.one_of(
    st.tuples(st.sampled_from(["cmdline", "extra", "root"]), TEXTS),
    st.tuples(st.just("vcpus"), NUMBERS),
    st.tuples(st.just("memory"), SIZES),
    st.tuples(st.just("disk"), listed(DISK)),
    st.tuples(st.just("vif"), listed(VIF)),
    st.tuples(st.sampled_from(["acpi", "pae", "sdl"]), NUMBERS),
    st.tuples(st.just("on_crash"), st.sampled_from(["'destroy'", "'restart'", "'preserve'"])),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(LINES, st.sampled_from(["\n", ";", "\n\n", " # c\n"])), max_size=8))
def test_files_made_at_random(xl: Xl, lines: list[tuple[tuple[str, str], str]]) -> None:
    text = LEAST + "".join(f"{key} = {value}{end}" for (key, value), end in lines) + "\n"
    theirs, ours = both(text, xl)
    assert theirs is not None
    assert ours == theirs
