"""Builds python_ring.pyx, which only tests need, and imports it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

import kvmxen
from kvmxen.guests._build import tool

if TYPE_CHECKING:
    from tests.unit.ring.python_ring import PythonRing
else:
    NAME = "python_ring"

    def _build(folder: Path) -> type:
        source, code = Path(__file__).with_name(f"{NAME}.pyx"), folder / f"{NAME}.c"
        library = folder / f"{NAME}.so"
        root = Path(kvmxen.__file__).parents[1]
        translate = [sys.executable, "-m", "cython", "-3", f"-I{root}", "-o", code, source]
        include = f"-I{sysconfig.get_path('include')}"
        compiler = tool("CC", "gcc")
        if shutil.which(compiler[0]) is None:
            pytest.skip(f"needs {compiler[0]}", allow_module_level=True)
        build = [*compiler, "-shared", "-fPIC", include, "-o", library, code]
        for command in (translate, build):
            subprocess.run(command, check=True)
        loader = ExtensionFileLoader(NAME, str(library))
        spec = spec_from_file_location(NAME, library, loader=loader)
        module = module_from_spec(spec)
        loader.exec_module(module)
        return module.PythonRing

    with TemporaryDirectory() as folder:
        PythonRing = _build(Path(folder))

__all__ = ["PythonRing"]
