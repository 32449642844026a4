"""Debian's clients of libvirt as test material: virsh, virt-install, Ansible's module, ...

Each runs from an unpacked tree, and needs nothing of this host.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from tests.packages import Suite


@dataclass(frozen=True)
class Tool:
    """A command, and what its environment needs."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    def script(self, path: Path) -> Path:
        """A program at `path` that runs the command, in that environment."""
        values = [f"{name}={value}" for name, value in self.environment.items()]
        path.write_text(f'#!/bin/sh\nexec env {shlex.join([*values, *self.command])} "$@"\n')
        path.chmod(0o700)
        return path


def virsh(suite: str) -> list[str]:
    """The command that runs virsh of a Debian release. Raises packages.Unavailable."""
    tree = Suite(suite).tree("libvirt-clients")
    return [*_loader(tree), str(tree / "usr/bin/virsh")]


def python_with_libvirt() -> Tool:
    """Debian 12's Python with libvirt's bindings. Raises packages.Unavailable."""
    return _python(Suite("bookworm").tree("python3-libvirt"))


def virtinst(program: str) -> Tool:
    """virt-install, virt-clone or virt-xml of Debian 12. Raises packages.Unavailable."""
    tree = Suite("bookworm").tree("virtinst")
    python = _python(tree)
    # The programs themselves add /usr/share/virt-manager to Python's path.
    start = (
        f"import sys; sys.argv[0] = {program!r}; "
        f"from virtinst import {program.replace('-', '')} as program; program.runcli()"
    )
    return Tool(
        [*python.command, "-c", start],
        python.environment
        | {
            "PYTHONPATH": str(tree / "usr/share/virt-manager"),
            "GI_TYPELIB_PATH": str(tree / "usr/lib/x86_64-linux-gnu/girepository-1.0"),
            "OSINFO_SYSTEM_DIR": str(tree / "usr/share/osinfo"),
        },
    )


def ansible() -> Tool:
    """The program `ansible` of Debian 12, with the collection community.libvirt. Raises
    packages.Unavailable."""
    tree = Suite("bookworm").tree("ansible")
    python = _python(tree)
    return Tool([*python.command, str(tree / "usr/bin/ansible")], python.environment)


def exporter() -> list[str]:
    """The command that runs Debian 12's prometheus-libvirt-exporter. Raises
    packages.Unavailable."""
    tree = Suite("bookworm").tree("prometheus-libvirt-exporter")
    return [*_loader(tree), str(tree / "usr/bin/prometheus-libvirt-exporter")]


def _python(tree: Path) -> Tool:
    """Debian 12's Python of an unpacked system."""
    command = [*_loader(tree), str(tree / "usr/bin/python3.11")]
    return Tool(command, {"PYTHONHOME": str(tree / "usr")})


def _loader(tree: Path) -> list[str]:
    """The dynamic loader of an unpacked system, with the folders of its libraries."""
    for folder in ("lib64", "usr/lib64"):
        loader = tree / folder / "ld-linux-x86-64.so.2"
        if loader.exists():
            break
    folders = [tree / "lib/x86_64-linux-gnu", tree / "usr/lib/x86_64-linux-gnu"]
    return [str(loader), "--library-path", ":".join(map(str, folders))]
