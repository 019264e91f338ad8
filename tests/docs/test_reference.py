"""The reference pages are what the code says."""

import pytest

from scripts.docs.reference import PLACE, pages


@pytest.mark.parametrize("name", ["spec.md", "flags.md", "commands.md"])
def test_a_reference_page_is_what_the_code_says(name: str):
    assert (PLACE / name).read_text(encoding="utf-8") == pages()[name], "run `make reference`"
