"""Debian 12's Xen tools as test material: xenstore-utils, and the daemons for comparison."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.packages import Suite

# All are built from one source, and need only packages that Debian's dpkg needs too.
_LIBRARIES = (
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenmisc4.17",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
)
# The first has links to a script in place of the programs in the second.
_PROGRAMS = {"xenstore-utils": "usr/bin", "xen-utils-4.17": "usr/lib/xen-4.17/bin"}


@dataclass(frozen=True)
class Programs:
    """Programs by name, and the folders of the shared libraries that they need."""

    paths: Mapping[str, Path]
    libraries: tuple[Path, ...]

    def environment(self, **more: str) -> dict[str, str]:
        """The environment for running one of them."""
        return os.environ | {"LD_LIBRARY_PATH": ":".join(map(str, self.libraries)), **more}


def xen_programs() -> Programs:
    """xenstore-ls and the like, xenstored and oxenstored. Raises packages.Unavailable."""
    suite = Suite("bookworm")
    paths = dict[str, Path]()
    for package, folder in _PROGRAMS.items():
        paths |= {
            path.name: path for path in _folder(suite, package, f"{folder}/*x*store*").glob("*")
        }
    member = "usr/lib/x86_64-linux-gnu/lib*.so.*"
    return Programs(paths, tuple(_folder(suite, package, member) for package in _LIBRARIES))


def xl_program() -> Programs:
    """xl of Xen 4.17. Raises packages.Unavailable."""
    suite = Suite("bookworm")
    path = suite.package("xen-utils-4.17", "usr/lib/xen-4.17/bin/xl")
    member = "usr/lib/x86_64-linux-gnu/lib*.so.*"
    needed = (*_LIBRARIES, "libxenhypfs1", "libyajl2")
    return Programs({"xl": path}, tuple(_folder(suite, package, member) for package in needed))


def make_pygrub(folder: Path) -> Path:
    """A program in `folder` that is pygrub of Xen 4.17. Raises packages.Unavailable."""
    tree = Suite("bookworm").tree("xen-utils-4.17")
    # A confined program sees what is in lib beside its own folder.
    (folder / "bin").mkdir(parents=True)
    (folder / "lib").symlink_to(tree)
    program, lib = folder / "bin" / "pygrub", folder / "lib"
    xen = lib / "usr/lib/xen-4.17"
    places = (lib / "lib/x86_64-linux-gnu", lib / "usr/lib/x86_64-linux-gnu")
    libraries = ":".join(map(str, (*places, xen / "lib/x86_64-linux-gnu")))
    program.write_text(
        "#!/bin/sh\n"
        f"export PYTHONHOME={lib}/usr\n"
        f"export XEN_FSIMAGE_FSDIR={xen}/lib/x86_64-linux-gnu/xenfsimage\n"
        f"exec {lib}/lib64/ld-linux-x86-64.so.2 --library-path {libraries} "
        f'{lib}/usr/bin/python3.11 {xen}/bin/pygrub "$@"\n'
    )
    program.chmod(0o700)
    return program


def oxenstored_configuration() -> Path:
    """The configuration that Debian ships for oxenstored. Raises packages.Unavailable."""
    return Suite("bookworm").package("xen-utils-common", "etc/xen/oxenstored.conf")


def utils_libraries() -> list[Path]:
    """All files that xenstore-utils need in an empty guest. Raises packages.Unavailable."""
    suite = Suite("bookworm")
    return [
        suite.package(package, f"{folder}/{name}")
        for package, folder, name in (
            ("libc6", "lib/x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
            ("libc6", "lib/x86_64-linux-gnu", "libc.so.6"),
            ("libgcc-s1", "lib/x86_64-linux-gnu", "libgcc_s.so.1"),
            ("libxenstore4", "usr/lib/x86_64-linux-gnu", "libxenstore.so.4"),
            ("libxentoolcore1", "usr/lib/x86_64-linux-gnu", "libxentoolcore.so.1"),
        )
    ]


def _folder(suite: Suite, package: str, member: str) -> Path:
    return suite.package(package, member).parent
