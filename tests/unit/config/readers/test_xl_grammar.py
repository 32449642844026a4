"""The grammar of xl's configuration files."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.config.readers.xl_grammar import MAX_SIZE, Value, parse
from kvmxen.errors import UsageError


def values(text: str) -> dict[str, Value]:
    return {key: setting.value for key, setting in parse(text, "f").items()}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("\n;;\n# only a comment\n", {}),
        ("a=1", {"a": "1"}),
        ("a = 0x1F # comment\nb=010;c='x'", {"a": "0x1F", "b": "010", "c": "x"}),
        ("a=1\na=2\n", {"a": "2"}),
        (r"""a="q\"\\\t'" """, {"a": "q\"\\\t'"}),
        ("a='#;[]'", {"a": "#;[]"}),
        ("a=[]", {"a": []}),
        ("a=['x', 'y',]", {"a": ["x", "y"]}),
        ("a=[ # one\n 'x'\n,\n\n ['y', 2] ]", {"a": ["x", ["y", "2"]]}),
        ("a='x'\na+='y'", {"a": "xy"}),
        ("a=['x']\na+=['y']", {"a": ["x", "y"]}),
        ("a+='x'", {"a": "x"}),
        ("a.b_1=1", {"a.b_1": "1"}),
    ],
)
def test_what_is_understood(text: str, found: dict[str, Value]) -> None:
    assert values(text) == found


def test_a_setting_knows_its_line() -> None:
    found = parse("a=1\n\nb=[\n'x'\n]\na=2\n", "f")
    assert {key: setting.where for key, setting in found.items()} == {"a": "f:6", "b": "f:3"}


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("a=64*2", 1, "the end of the line is expected, not '*2'; Python is not understood"),
        ("a=-1", 1, "not '-1'; Python is not understood"),
        ("\nimport os", 2, "= after the key is expected, not 'os'"),
        ("A=1", 1, "a key, such as memory is expected, not 'A=1'"),
        ("a='it''s'", 1, "the end of the line is expected"),
        ("a='x\n'", 1, "a text in quotes, a number, or a list in brackets is expected"),
        ("a=512MB", 1, "the end of the line is expected, not 'MB'"),
        ("a=(1, 2)", 1, "not '(1, 2)'; Python is not understood"),
        ("a=b", 1, "a text in quotes, a number, or a list in brackets is expected, not 'b'"),
        ("a=", 1, "and the file ends"),
        ("a=\n1", 1, "and the line ends"),
        ("a=['x'", 1, "a comma or ] is expected, and the file ends"),
        ("a=[,]", 1, "is expected, not ','"),
        ("a=['x' 'y']", 1, "a comma or ] is expected"),
        ("a=1 b=2", 1, "the end of the line is expected, not 'b'"),
        (r"a='\q'", 1, r"\q has no meaning in a text"),
        ("a=1\na+=['x']", 2, "+= joins two texts or two lists"),
        ("a=" + "[" * 9, 1, "is expected, not '['"),
        ('a="""x"""', 1, "the end of the line is expected"),
        ("a=1\r\n", 1, "the end of the line is expected"),
        ("a=1\nb='\0'", 2, "there is a NUL in it"),
        ("\n".join(f"k{n}=1" for n in range(1001)), 1001, "more than 1000 keys: use fewer"),
        (f"a=[{'1,' * 1001}]", 1, "more than 1000 items in a list"),
        (f"a=[{'1,' * 600}]\na+=[{'1,' * 600}]", 2, "more than 1000 items in a list"),
    ],
)
def test_what_is_refused(text: str, line: int, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, "guest.cfg")
    assert str(caught.value).startswith(f"guest.cfg:{line}: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_has_a_limit() -> None:
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        parse("#" * (MAX_SIZE + 1), "f")


PIECES = st.lists(st.sampled_from([*"ab=+[],;\n\t '\"\\#01x", "a=", "+=", "'x'"]), max_size=30)


@given(st.text(max_size=60) | PIECES.map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(UsageError):
        assert all(key[0].islower() for key in parse(text, "f"))
