"""Values of a command line, split at the commas that YAML does not hold together."""

import pytest

from dimba.common.errors import BadInput
from dimba.spec import flow_items


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("1e-4,2e-4", [("1e-4", 0.0001), ("2e-4", 0.0002)]),
        (" 8, 16 ", [("8", 8), ("16", 16)]),
        ('"a, b",c', [('"a, b"', "a, b"), ("c", "c")]),
        ("[q, v], all-linear", [("[q, v]", ["q", "v"]), ("all-linear", "all-linear")]),
        ("{a: 1}, null", [("{a: 1}", {"a": 1}), ("null", None)]),
        ("regex:^x$,no", [("regex:^x$", "regex:^x$"), ("no", "no")]),
        ("", []),
    ],
)
def test_items_keep_their_text_and_have_their_value(text: str, items: list[tuple[str, object]]):
    assert flow_items(text) == items


@pytest.mark.parametrize("text", ["[1,2", "1,,2", "a], [b", "&x 1, *x", "{", '"', "\ud800"])
def test_what_yaml_cannot_read_as_a_list_is_refused(text: str):
    with pytest.raises(BadInput):
        flow_items(text)
