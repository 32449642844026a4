from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup

extensions = [
    Extension(str(p.with_suffix("")).replace("/", "."), [str(p)], extra_compile_args=["-O2"])
    for p in sorted(Path("kvmxen").rglob("*.pyx"))
]
setup(
    packages=find_packages(include=["kvmxen*"]),
    ext_modules=cythonize(extensions, language_level=3),
)
