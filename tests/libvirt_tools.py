"""Debian's clients of libvirt as test material: virsh, and Python with libvirt's bindings."""

from __future__ import annotations

from pathlib import Path

from tests.packages import Suite


def virsh(suite: str) -> list[str]:
    """The command that runs virsh of a Debian release. Raises packages.Unavailable."""
    tree = Suite(suite).tree("libvirt-clients")
    return [*_loader(tree), str(tree / "usr/bin/virsh")]


def python_with_libvirt() -> tuple[list[str], dict[str, str]]:
    """The command that runs Debian 12's Python with libvirt's bindings, and what its environment
    needs. Raises packages.Unavailable."""
    tree = Suite("bookworm").tree("python3-libvirt")
    return [*_loader(tree), str(tree / "usr/bin/python3.11")], {"PYTHONHOME": str(tree / "usr")}


def _loader(tree: Path) -> list[str]:
    """The dynamic loader of an unpacked system, with the folders of its libraries."""
    for folder in ("lib64", "usr/lib64"):
        loader = tree / folder / "ld-linux-x86-64.so.2"
        if loader.exists():
            break
    folders = [tree / "lib/x86_64-linux-gnu", tree / "usr/lib/x86_64-linux-gnu"]
    return [str(loader), "--library-path", ":".join(map(str, folders))]
