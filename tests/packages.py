"""Debian packages as test material: guest kernels, PV GRUB, busybox.

apt-get fetches them, as any user, with an apt configuration of our own: the host's Debian sources
with another suite, the host's proxies and keys. Fetched packages are reused without the network.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

CACHE = Path(__file__).parent.parent / ".cache" / "packages"
KEYRINGS = ("debian-archive-keyring.pgp", "debian-archive-keyring.gpg")
_ARCHIVE = re.compile(r".*/debian(-security)?(\.list|/[0-9]{8}T[0-9]{6}Z)?/?")
_SUITE = re.compile(r"(bookworm|trixie|forky|sid|(?:old)*stable|testing)(-security|-updates)?")
_ONE_LINE = re.compile(r"deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s+([^#]*)")


class Unavailable(Exception):
    """A package that is not available here; str() says which and why."""


@dataclass(frozen=True)
class Source:
    """One of the host's archives: its URI, and which part of a release ("", "-security", ...)."""

    uri: str
    pocket: str


def read_sources(text: str) -> Iterator[Source]:
    """The Debian archives in an apt sources file, one-line or deb822 (sources.list(5))."""
    for stanza in re.split(r"\n\s*\n", re.sub(r"(?m)^\s*#.*\n?", "", text)):
        found = re.findall(r"(?m)^([\w-]+):((?:.*\n?)(?:[ \t].*\n?)*)", stanza)
        fields = {key.lower(): value.split() for key, value in found}
        if "deb" in fields.get("types", []):
            for uri in fields.get("uris", []):
                yield from _debian(uri, fields.get("suites", []), fields.get("components", []))
        for uri, suite, components in _ONE_LINE.findall(stanza):
            yield from _debian(uri, [suite], components.split())


def _debian(uri: str, suites: list[str], components: list[str]) -> Iterator[Source]:
    if "main" in components and _ARCHIVE.fullmatch(uri):
        for suite in suites:
            if match := _SUITE.fullmatch(suite):
                yield Source(uri, match[2] or "")


def host_sources(etc: Path = Path("/etc/apt")) -> list[Source]:
    """The Debian archives that this host's apt uses; raises Unavailable if there is none."""
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    texts = [f.read_text() for f in files if f.suffix in (".list", ".sources") and f.is_file()]
    sources = dict.fromkeys(source for text in texts for source in read_sources(text))
    if not sources:
        raise Unavailable("this host's apt has no Debian archive in its sources")
    return list(sources)


def _keyring() -> Path:
    for name in KEYRINGS:
        path = Path("/usr/share/keyrings", name)
        if path.is_file():
            return path
    raise Unavailable("this host has no debian-archive-keyring")


class Suite:
    """The packages of one Debian release, kept under `cache`."""

    def __init__(self, name: str, cache: Path = CACHE) -> None:
        self.name = name
        self.folder = cache / name

    def package(self, package: str, member: str) -> Path:
        """The file whose path in `package` matches the glob `member` (without a leading slash).

        The package is fetched unless it is in the cache. For a metapackage, the dependency that
        extends its name is used (linux-image-amd64 depends on linux-image-6.1.0-42-amd64). Raises
        Unavailable.
        """
        unpacked = self.folder / package
        with _locked(self.folder):
            if not list(unpacked.glob(member)):
                self._unpack(self.deb(package), member, unpacked)
        found = [path for path in unpacked.glob(member) if path.is_file()]
        if not found:
            raise Unavailable(f"Debian's {package} in {self.name} has no {member}")
        return found[0]

    def tree(self, package: str) -> Path:
        """The folder with all the files of `package` and of its dependencies, unpacked.

        It needs nothing of this host, not even its C library. Raises Unavailable.
        """
        whole = self.folder / "trees" / package
        with _locked(self.folder):
            if not whole.exists():
                self._update()
                with TemporaryDirectory(dir=self.folder) as temp:
                    archives = Path(temp, "archives")
                    (archives / "partial").mkdir(parents=True)
                    options = ("-q", "-y", "--download-only", "--no-install-recommends")
                    where = ("-o", f"Dir::Cache::Archives={archives}")
                    self._apt("apt-get", "install", *options, *where, package)
                    tree = Path(temp, "tree")
                    for deb in archives.glob("*.deb"):
                        subprocess.run(["dpkg-deb", "-x", deb, tree], check=True)
                    whole.parent.mkdir(exist_ok=True)
                    tree.rename(whole)
        return whole

    def deb(self, package: str) -> Path:
        """The package's file, of its newest version, fetched if necessary. Raises Unavailable."""
        debs = self.folder / "debs" / package
        if not list(debs.glob("*.deb")):
            self._update()
            with TemporaryDirectory(dir=self.folder) as temp:
                self._apt("apt-get", "download", "-q", self._versioned(package), cwd=Path(temp))
                _move(Path(temp), debs)
        return next(debs.glob("*.deb"))

    def _versioned(self, package: str) -> str:
        stem, _, tail = package.rpartition("-")
        needs = self._apt("apt-cache", "depends", "--important", package)
        match = re.search(rf"Depends: ({re.escape(stem)}-[0-9]\S*-{re.escape(tail)})$", needs, re.M)
        if not match:
            return package
        # From Linux 6.19 on, the image has a package of its own.
        binary = match[1].replace("linux-image-", "linux-binary-")
        needs = self._apt("apt-cache", "depends", "--important", match[1])
        return binary if f"Depends: {binary}\n" in needs else match[1]

    def _unpack(self, deb: Path, member: str, into: Path) -> None:
        with TemporaryDirectory(dir=self.folder) as temp:
            tar = ["tar", "-x", "-C", temp, "--no-same-owner", "--wildcards", f"./{member}"]
            with subprocess.Popen(
                ["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE
            ) as package:
                subprocess.run(tar, stdin=package.stdout, stderr=subprocess.DEVNULL, check=False)
            _move(Path(temp), into)

    def _update(self) -> None:
        self._configure()
        self._apt("apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any")

    def _configure(self) -> None:
        for folder in ("lists/partial", "cache/archives/partial"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        keyring = _keyring()
        lines = [
            f"deb [arch=amd64 signed-by={keyring}] {source.uri} {self.name}{source.pocket} main\n"
            for source in host_sources()
            # sid has no other part.
            if self.name != "sid" or not source.pocket
        ]
        (self.folder / "sources.list").write_text("".join(lines))

    def _apt(self, tool: str, *arguments: str, cwd: Path | None = None) -> str:
        options = {
            "Dir::Etc::SourceList": self.folder / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State": self.folder,
            "Dir::State::Lists": self.folder / "lists",
            "Dir::State::Status": self.folder / "status",
            "Dir::Cache": self.folder / "cache",
            "APT::Architecture": "amd64",
            # apt as root would fetch as a user who cannot see this folder.
            "APT::Sandbox::User": "",
        }
        flags = [flag for key, value in options.items() for flag in ("-o", f"{key}={value}")]
        try:
            result = subprocess.run(
                [tool, *flags, *arguments],
                cwd=cwd,
                env={**os.environ, "LC_ALL": "C"},
                capture_output=True,
                text=True,
                check=True,
                timeout=600,
            )
        except FileNotFoundError:
            raise Unavailable(f"this host has no {tool}") from None
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{tool} {arguments[0]} took more than 10 minutes") from None
        except subprocess.CalledProcessError as error:
            why = error.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise Unavailable(f"{tool} {arguments[0]} for {self.name}: {why[0]}") from None
        return result.stdout


def _move(source: Path, target: Path) -> None:
    """Move a tree's files one by one, so that each is there completely or not at all."""
    shutil.copytree(source, target, symlinks=True, copy_function=os.rename, dirs_exist_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


_KERNELS = {"6.1": "bookworm", "6.12": "trixie"}
_MODULES = {"6.1": "lib/modules", "6.12": "usr/lib/modules"}


def debian_kernel(version: str) -> Path:
    """The bzImage of Debian's current kernel of the series `version`, "6.1" or "6.12"."""
    return _kernel_file(version, f"boot/vmlinuz-{version}.*")


def oldest_kernel() -> Path:
    """The bzImage of a Debian 11 kernel, which calls Xen through the hypercall page."""
    return Suite("bullseye").package("linux-image-5.10.0-30-amd64", "boot/vmlinuz-*")


def newest_kernel() -> Path:
    """The bzImage of the kernel in Debian's unstable release."""
    return Suite("sid").package("linux-image-amd64", "usr/lib/modules/*/vmlinuz")


def debian_module(version: str, name: str) -> Path:
    """The module `name` of that kernel, with `_` for `-`; xz-compressed if its name ends in .xz."""
    file = name.replace("_", "[-_]")
    return _kernel_file(version, f"{_MODULES[version]}/*/**/{file}.ko*")


def builtin_modules(version: str) -> set[str]:
    """The names, with `_` for `-`, of that kernel's built-in parts that could be modules."""
    paths = _kernel_file(version, f"{_MODULES[version]}/*/modules.builtin").read_text().split()
    return {Path(path).stem.replace("-", "_") for path in paths}


def modules(version: str, names: Iterable[str]) -> Path:
    """The folder of that kernel's unpacked package, with the modules `names` and the lists of
    all its modules."""
    for name in names:
        debian_module(version, name)
    order = _kernel_file(version, f"{_MODULES[version]}/*/modules.order")
    builtin = _kernel_file(version, f"{_MODULES[version]}/*/modules.builtin")
    assert order.parent == builtin.parent
    return order.parents[len(Path(_MODULES[version]).parts) + 1]


def _kernel_file(version: str, member: str) -> Path:
    return Suite(_KERNELS[version]).package("linux-image-amd64", member)


def pv_grub() -> Path:
    """The 64-bit PV GRUB, an ELF kernel."""
    return Suite("bookworm").package("grub-xen-host", "usr/lib/grub-xen/grub-x86_64-xen.bin")


def xen_shim() -> Path:
    """Xen's pv-shim: the hypervisor that runs one PV guest, as a PVH guest itself."""
    return Suite("trixie").package("xen-utils-4.20", "usr/lib/xen-4.20/boot/xen-shim")


def qemu() -> Path:
    """The folder of Debian 13's QEMU for x86, with the loader and libraries that it runs with."""
    return Suite("trixie").tree("qemu-system-x86")


def busybox() -> Path:
    """A statically linked busybox."""
    return Suite("bookworm").package("busybox-static", "bin/busybox")


def fetch_all() -> None:
    """Fetch everything that tests of guests need into the cache. Raises Unavailable."""
    for version in _KERNELS:
        debian_kernel(version)
        modules(version, ("xen_netfront", "xen_blkfront"))
    pv_grub()
    busybox()
