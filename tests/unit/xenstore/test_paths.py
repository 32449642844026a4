"""Which paths are well-formed, and what they mean."""

from __future__ import annotations

import errno

import pytest

from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.paths import ancestry, canonical, names, parent

HOME = "/local/domain/5/"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("/", "/"),
        ("/a", "/a"),
        ("/a/b-c_d@e/F0", "/a/b-c_d@e/F0"),
        ("name", "/local/domain/5/name"),
        ("device/vif/0", "/local/domain/5/device/vif/0"),
        ("/" + "x" * 2047, "/" + "x" * 2047),
        (HOME + "x" * 2048, HOME + "x" * 2048),
        ("x" * 2048, HOME + "x" * 2048),
    ],
)
def test_well_formed(said: str, meant: str) -> None:
    assert canonical(said, 5) == meant


TOO_LONG = ["/" + "x" * 2048, "x" * 2049, HOME + "x" * 2049]
WRONG = ["", "//", "/a/", "a/", "/a//b", "/a b", "/a.b", "/a\n", "/é", "/a\0b", "/a+b", "@a"]


@pytest.mark.parametrize("said", WRONG + TOO_LONG)
def test_not_well_formed(said: str) -> None:
    with pytest.raises(XenstoreError) as refused:
        canonical(said, 5)
    assert refused.value.errno == errno.EINVAL


def test_special_paths() -> None:
    assert canonical("@releaseDomain", 5, special=True) == "@releaseDomain"
    assert canonical("@releaseDomain/3", 5, special=True) == "@releaseDomain/3"
    with pytest.raises(XenstoreError):
        canonical("@releaseDomain/", 5, special=True)


@pytest.mark.parametrize(
    ("path", "above", "down", "up"),
    [
        ("/", "/", [""], ["/"]),
        ("/a", "/", ["", "a"], ["/a", "/"]),
        ("/a/b", "/a", ["", "a", "b"], ["/a/b", "/a", "/"]),
        ("@x", "/", ["@x"], ["@x"]),
        ("@x/1", "@x", ["@x", "1"], ["@x/1", "@x"]),
    ],
)
def test_the_family_of_a_path(path: str, above: str, down: list[str], up: list[str]) -> None:
    assert parent(path) == above
    assert names(path) == down
    assert list(ancestry(path)) == up
