"""Builds what is not Python: the Cython modules, the shim and the demo guest."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

# Build front ends run this file without its directory on sys.path.
sys.path.insert(0, str(Path(__file__).parent))

from kvmxen.guests._build import compile_guest, tool

PACKAGE = Path("kvmxen")
SHIM = PACKAGE / "pv" / "shim"
# The numbers that the C of all parts, Cython and Python share.
SHARED_HEADERS = sorted((PACKAGE / "xen" / "abi").glob("*.h"))
SHIM_IMAGE = SHIM / "shim.bin"
# Freestanding, at a fixed address in the upper half, with no registers but the general ones.
# fmt: off
SHIM_FLAGS = [
    "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-fpie",
    "-fvisibility=hidden", "-mgeneral-regs-only", "-mno-red-zone", "-fcf-protection=none",
    "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-strict-aliasing",
    "-fno-tree-loop-distribute-patterns",
]
# fmt: on
CYTHON = "build/cython"
GUESTS = PACKAGE / "guests"
DEMO = GUESTS / "demo.elf"


def sources(folder: Path, *suffixes: str) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in suffixes)


class BuildExt(build_ext):
    """build_ext, and the two pieces of guest-side code that go into the package with it."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def run(self) -> None:
        super().run()
        for target, build in ((SHIM_IMAGE, self.build_shim), (DEMO, self.build_demo)):
            out = Path(self.build_lib) / target
            inputs = [*sources(target.parent, ".S", ".c", ".h", ".ld", ".py"), *SHARED_HEADERS]
            if self.force or newer_group([*map(str, inputs), __file__], str(out)):
                out.parent.mkdir(parents=True, exist_ok=True)
                build(out)
            if self.inplace:
                shutil.copyfile(out, target)

    def build_shim(self, out: Path) -> None:
        temp = Path(self.build_temp) / SHIM
        temp.mkdir(parents=True, exist_ok=True)
        compiler = tool("CC", "gcc")
        headers = [*map(str, [*sources(SHIM, ".h"), *SHARED_HEADERS]), __file__]
        objects = []
        for source in map(str, sources(SHIM, ".S", ".c")):
            obj = str(temp / f"{Path(source).stem}.o")
            if self.force or newer_group([source, *headers], obj):
                self.spawn([*compiler, "-c", *SHIM_FLAGS, f"-I{PACKAGE}", "-o", obj, source])
            objects.append(obj)
        script = str(temp / "shim.ld")
        preprocess = [*compiler, "-E", "-P", "-x", "assembler-with-cpp", "-o", script]
        self.spawn([*preprocess, str(SHIM / "shim.ld")])
        linker = tool("LD", "ld")
        self.spawn([*linker, "--no-check-sections", "-T", script, "-o", str(out), *objects])

    def build_demo(self, out: Path) -> None:
        compile_guest(sources(GUESTS / "demo", ".S", ".c"), out)

    def get_outputs(self) -> list[str]:
        images = [str(Path(self.build_lib) / target) for target in (SHIM_IMAGE, DEMO)]
        return [*super().get_outputs(), *images]

    def get_output_mapping(self) -> dict[str, str]:
        images = {str(Path(self.build_lib) / target): str(target) for target in (SHIM_IMAGE, DEMO)}
        return {**super().get_output_mapping(), **(images if self.inplace else {})}


def modules() -> list[Extension]:
    """The Cython modules; those that include a header of ours are built again with it."""
    extensions: list[Extension] = cythonize(
        [
            Extension(
                ".".join(path.with_suffix("").parts),
                [str(path)],
                include_dirs=[str(PACKAGE)],
                extra_compile_args=["-O2"],
            )
            for path in sources(PACKAGE, ".pyx")
        ],
        build_dir=CYTHON,
        language_level=3,
    )
    # Cython's copies of headers come first in the compiler's search, and are not always new.
    for copy in sources(Path(CYTHON), ".h"):
        copy.unlink()
    headers = [*sources(SHIM, ".h"), *sources(PACKAGE / "kvm", ".h"), *SHARED_HEADERS]
    for extension in extensions:
        code = Path(extension.sources[0]).read_text()
        if any(f'#include "{header.relative_to(PACKAGE)}"' in code for header in headers):
            extension.depends += map(str, headers)
    return extensions


setup(
    cmdclass={"build_ext": BuildExt},
    # The Makefile installs first, and builds afterwards what has changed.
    ext_modules=[] if os.environ.get("KVMXEN_BUILD") == "later" else modules(),
)
