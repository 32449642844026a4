"""Reading apt's sources, which differ from host to host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packages import Source, Suite, Unavailable, host_sources, read_sources

DEB822 = """\
# made by the installer
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm
  bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
# a note inside the stanza
URIs: http://mirror.example/debian-security/
Suites: bookworm-security
Components: main
"""


def test_reads_deb822() -> None:
    assert list(read_sources(DEB822)) == [
        Source("http://mirror.example/debian", ""),
        Source("http://mirror.example/debian", "-updates"),
        Source("http://mirror.example/debian-security/", "-security"),
    ]


@pytest.mark.parametrize(
    ("line", "pockets"),
    [
        ("deb http://m.example/debian bookworm main", [""]),
        (
            "deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian trixie-updates main",
            ["-updates"],
        ),
        ("deb mirror+file:///etc/apt/mirrors/debian.list stable main # note", [""]),
        ("deb http://m.example/archive/debian/20250520T000000Z/ bookworm contrib main", [""]),
        ("# deb http://m.example/debian bookworm main", []),
        ("deb-src http://m.example/debian bookworm main", []),
        ("deb http://m.example/debian bookworm contrib", []),
        ("deb http://m.example/linux/debian bookworm stable", []),
        ("deb http://m.example/debian/12/prod bookworm main", []),
        ("deb http://m.example/ubuntu noble main", []),
        ("deb http://m.example/debian bookworm-pgdg main", []),
        ("deb", []),
        ("", []),
    ],
)
def test_reads_one_line(line: str, pockets: list[str]) -> None:
    assert [source.pocket for source in read_sources(f"{line}\n")] == pockets


def test_merges_the_files_of_a_host(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://m.example/debian bookworm main\n")
    (tmp_path / "sources.list.d" / "a.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "b.list.disabled").write_text(
        "deb http://off.example/debian bookworm main\n"
    )
    uris = {source.uri for source in host_sources(tmp_path)}
    assert "http://m.example/debian" in uris
    assert "http://mirror.example/debian" in uris
    assert "http://off.example/debian" not in uris


def test_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no Debian archive"):
        host_sources(tmp_path)


def test_cached_file_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "bookworm" / "linux-image-amd64" / "boot"
    kept.mkdir(parents=True)
    (kept / "vmlinuz-6.1.0-1-amd64").write_bytes(b"x")
    monkeypatch.setenv("PATH", "")
    found = Suite("bookworm", tmp_path).package("linux-image-amd64", "boot/vmlinuz-6.1.*")
    assert found == kept / "vmlinuz-6.1.0-1-amd64"
    with pytest.raises(Unavailable, match="apt-get"):
        Suite("bookworm", tmp_path).package("busybox-static", "bin/busybox")
