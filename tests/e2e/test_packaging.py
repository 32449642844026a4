"""kvmxen as people get it: the sdist builds, and its wheel runs where there is no compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {".py", ".pyx", ".pxd", ".pyi", ".S", ".c", ".h", ".ld"}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    out = folder / "out"
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps")
    run(*pip, "-w", out, unpacked, cwd=folder)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_sdist_has_every_source(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = package_sources() | {
        "LICENSE",
        "README.md",
        "Makefile",
        "pyproject.toml",
        "setup.py",
    }
    assert expected - names == set()
    assert {name for name in names if name.endswith((".so", ".o", ".elf", ".bin"))} == set()


def test_wheel_has_what_runs(contents: set[str]) -> None:
    modules = {name for name in package_sources() if name.endswith((".py", ".pyi", ".pxd"))}
    assert modules - contents == set()
    extensions = {name.partition(".")[0] for name in contents if name.endswith(".so")}
    assert extensions == {n.partition(".")[0] for n in package_sources() if n.endswith(".pyx")}
    assert {"kvmxen/shim/gate.bin", "kvmxen/shim/abi.h", "kvmxen/guests/demo.elf"} <= contents
    assert "kvmxen/py.typed" in contents


def test_wheel_has_no_sources_to_compile(contents: set[str]) -> None:
    assert {name for name in contents if name.endswith((".pyx", ".c", ".S", ".ld"))} == set()


def test_wheel_runs_without_a_compiler(wheel: Path, tmp_path: Path) -> None:
    """Installed in an environment of its own, which borrows our dependencies."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    where = "import site; print(site.getsitepackages()[0])"
    site = Path(run(python, "-c", where, cwd=tmp_path).strip())
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index")
    run(*pip, "--no-deps", wheel, cwd=tmp_path)
    (site / "dependencies.pth").write_text(f"{Path(click.__file__).parents[1]}\n")
    bare = {"PATH": str(python.parent), "PYTHONPATH": ""}
    assert run(python.parent / "kvmxen", "--version", cwd=tmp_path, **bare).startswith("kvmxen ")
    program = (
        "import kvmxen.memory, kvmxen, pathlib; root = pathlib.Path(kvmxen.__file__).parent\n"
        "assert (root / 'guests/demo.elf').read_bytes()[:4] == b'\\x7fELF'\n"
        "assert (root / 'shim/gate.bin').stat().st_size > 0; print(root)"
    )
    assert run(python, "-c", program, cwd=tmp_path, **bare).startswith(str(site))
