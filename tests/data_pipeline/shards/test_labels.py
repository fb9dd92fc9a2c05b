"""Labels: what a member says, by the rule of its data set."""

from __future__ import annotations

import pytest

from data_pipeline.errors import BadDataset
from data_pipeline.shards.labels import BadLabel, LabelRule, Labels


@pytest.mark.parametrize(
    ("rule", "data", "expected"),
    [
        ("cls", b"7", (7,)),
        ("cls", b" 007\n", (7,)),
        ("txt", b"tabby cat\n", ("tabby cat",)),
        ("txt", "Käfer".encode(), ("Käfer",)),
        ("json", b"3", (3,)),
        ("json", b'["a", "b", "a"]', ("a", "b")),
        ("json:label", b'{"label": "12", "id": 1}', (12,)),
        ("json:meta.labels", b'{"meta": {"labels": [4, 2]}}', (4, 2)),
    ],
)
def test_a_rule_finds_the_labels(rule: str, data: bytes, expected: tuple[object, ...]) -> None:
    assert LabelRule.parse(rule).raw(data) == expected
    assert str(LabelRule.parse(rule)) == rule


@pytest.mark.parametrize(
    ("rule", "data", "message"),
    [
        ("cls", b"", "the label is ''"),
        ("cls", b"-1", "'-1'"),
        ("cls", b"1.5", r"'1\.5'"),
        ("cls", b"1234567890", "'1234567890'"),
        ("cls", b"\xff\xfe", "xff"),
        ("txt", b"two\nlines", "two"),
        ("txt", b"x" * 300, r"xxx\.\.\."),
        ("json", b"{", "not JSON"),
        ("json", b"true", "True"),
        ("json", b"1.0", r"1\.0"),
        ("json", b"[]", r"\[\]"),
        ("json", b'[1, "a"]', r"\[1, 'a'\]"),
        ("json", b'{"caption": "x", "label": 3}', "keys caption, label; say which key"),
        ("json:label", b'{"caption": "x"}', "no 'label' in an object with the keys caption"),
        ("json:a.b", b'{"a": 3}', r"no 'a\.b' in 3"),
    ],
)
def test_what_is_no_label_is_refused_with_what_it_is(rule: str, data: bytes, message: str) -> None:
    with pytest.raises(BadLabel, match=message):
        LabelRule.parse(rule).raw(data)


@pytest.mark.parametrize("text", ["", "cls:x", "json:", "json:a..b", "JSON", "a/b", "c ls"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(BadDataset, match="no rule"):
        LabelRule.parse(text)


def test_names_become_the_numbers_of_their_classes() -> None:
    labels = Labels(LabelRule("txt"), ["ant", "bee"])
    assert labels.numbers(b"bee") == (1,)
    assert labels.numbers(b"0") == (0,)
    for data in (b"cow", b"2"):
        with pytest.raises(BadLabel, match="none of the 2 classes"):
            labels.numbers(data)
    with pytest.raises(BadLabel, match="are numbers"):
        Labels(LabelRule("txt")).numbers(b"cow")
    with pytest.raises(BadDataset, match="'ant' is named twice"):
        Labels(LabelRule("txt"), ["ant", "bee", "ant"])
