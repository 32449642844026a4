"""kvmxen as people get it: make works in the sdist, and its wheel runs without a compiler."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parents[2]
WHERE = "import site; print(site.getsitepackages()[0])"
SOURCES = {".py", ".pyx", ".pxd", ".pyi", ".S", ".c", ".h", ".ld"}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def package_sources() -> set[str]:
    paths = (path for path in (ROOT / "kvmxen").rglob("*") if path.suffix in SOURCES)
    return {str(path.relative_to(ROOT)) for path in paths}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    egg_info = tmp_path_factory.mktemp("egg-info")
    setup = (sys.executable, "setup.py", "-q", "egg_info", "-e", egg_info)
    run(*setup, "sdist", "-d", out, cwd=ROOT)
    return next(out.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def built(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The sdist's folder after make has built everything in it, and make's output.

    Its environment is the one that make would install there, but borrows our dependencies.
    """
    out = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(out, filter="data")
    (folder,) = out.iterdir()
    borrow(folder / ".venv")
    pip = (sys.executable, "-m", "pip", "--python", folder / ".venv/bin/python", "install", "-q")
    here = ("--no-index", "--no-build-isolation", "--no-deps", "--editable", ".")
    run(*pip, *here, cwd=folder, KVMXEN_BUILD="later")
    (folder / ".venv/installed").touch()
    return folder, run("make", "-s", ".venv/built", cwd=folder)


@pytest.fixture(scope="module")
def unpacked(built: tuple[Path, str]) -> Path:
    return built[0]


def borrow(environment: Path) -> Path:
    """Create a virtual environment with our dependencies; return its folder for packages."""
    venv.create(environment, with_pip=False, symlinks=True)
    site = Path(run(environment / "bin/python", "-c", WHERE, cwd=environment).strip())
    (site / "dependencies.pth").write_text(f"{Path(click.__file__).parents[1]}\n")
    return site


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps")
    run(*pip, "-w", out, unpacked, cwd=out)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_sdist_is_what_git_has(sdist: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    tracked = run("git", "ls-files", cwd=ROOT).splitlines()
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert files - {"PKG-INFO", "setup.cfg"} == set(tracked)


def test_no_compiler_warns(built: tuple[Path, str]) -> None:
    assert "[1/" in built[1].replace(" ", "")
    assert "warning" not in built[1].lower()


def test_make_finds_its_scripts(unpacked: Path) -> None:
    for script in (".ci/system-packages", ".ci/run"):
        assert os.access(unpacked / script, os.X_OK)


def test_make_boot_in_the_sdist(unpacked: Path, kvm: None, environment: dict[str, str]) -> None:
    make = ("make", "-s", "boot", "ARGS=--timeout 100")
    assert "null hypercall" in run(*make, cwd=unpacked, **environment)


def test_wheel_has_what_runs(contents: set[str]) -> None:
    modules = {name for name in package_sources() if name.endswith((".py", ".pyi", ".pxd"))}
    assert modules - contents == set()
    extensions = {name.partition(".")[0] for name in contents if name.endswith(".so")}
    assert extensions == {n.partition(".")[0] for n in package_sources() if n.endswith(".pyx")}
    headers = {
        f"kvmxen/{name}.h" for name in ("xen/abi/x86", "xen/abi/xen", "xen/abi/io", "pv/shim/abi")
    }
    assert headers | {"kvmxen/pv/shim/shim.bin", "kvmxen/guests/demo.elf"} <= contents
    assert "kvmxen/py.typed" in contents


def test_wheel_has_no_sources_to_compile(contents: set[str]) -> None:
    assert {name for name in contents if name.endswith((".pyx", ".c", ".S", ".ld"))} == set()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment of its own with the wheel, which borrows our dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    borrow(folder)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "-q")
    run(*pip, "--no-index", "--no-deps", wheel, cwd=folder)
    return folder / "bin/python"


def test_wheel_runs_without_a_compiler(installed: Path, tmp_path: Path) -> None:
    bare = {"PATH": str(installed.parent), "PYTHONPATH": ""}
    assert run(installed.parent / "kvmxen", "--version", cwd=tmp_path, **bare).startswith("kvmxen ")
    program = (
        "import kvmxen.kvm.memory, kvmxen, pathlib; root = pathlib.Path(kvmxen.__file__).parent\n"
        "assert (root / 'guests/demo.elf').read_bytes()[:4] == b'\\x7fELF'\n"
        "assert (root / 'pv/shim/shim.bin').stat().st_size > 0; print(root)"
    )
    site = run(installed, "-c", WHERE, cwd=tmp_path).strip()
    assert run(installed, "-c", program, cwd=tmp_path, **bare).startswith(site)


@pytest.mark.usefixtures("kvm", "busybox_found")
def test_the_readmes_script(
    installed: Path,
    debian_kernel: Callable[[str], Path],
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (tmp_path / "vmlinuz").symlink_to(debian_kernel("6.12"))
    (tmp_path / "disk.img").touch()
    os.truncate(tmp_path / "disk.img", 1 << 20)
    said = run(installed, "-c", script, cwd=tmp_path, **environment)
    assert said.count("attached xvda\n") == 2
    assert said.count("Ending(end=<End.POWEROFF") == 2
