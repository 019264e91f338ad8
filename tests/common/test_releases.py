"""The table of model types by releases of transformers, and the refusals made from it."""

import pytest

from dimba.common.checkpoint.kind import families
from dimba.common.checkpoint.releases import library_type

LLAMA, EXAONE, REMOVED = library_type("llama"), library_type("exaone"), library_type("transfo-xl")
UNKNOWN = library_type("of_tomorrow")


def test_the_table_has_what_the_tested_transformers_knows():
    assert not [name for name in families() if library_type(name).is_known_to(LLAMA.tested) is not True]
    assert UNKNOWN.is_known_to(LLAMA.tested) is False


@pytest.mark.parametrize(
    ("model_type", "first", "last"),
    [("llama", "4.28.0", None), ("exaone", "5.24.0", None), ("transfo-xl", "4.0.0", "4.57.1"), ("x", None, None)],
)
def test_the_table_names_the_first_and_the_last_release(model_type: str, first: str | None, last: str | None):
    found = library_type(model_type)
    assert (found.first, found.last) == (first, last)


def test_a_patch_release_knows_what_its_minor_version_does_and_a_newer_one_may_know_anything():
    assert REMOVED.is_known_to("4.57.6") and not REMOVED.is_known_to("5.0.0")
    assert LLAMA.is_known_to("4.28.1") and LLAMA.is_known_to("4.27.4") is False and LLAMA.is_known_to("99.0.0")
    assert UNKNOWN.is_known_to("99.0.0") is None and EXAONE.is_known_to("5.24.0.dev0")


def test_a_type_needs_the_latest_releases_only_if_they_know_it_and_the_images_does_not():
    assert EXAONE.needs_latest and not any(each.needs_latest for each in (LLAMA, REMOVED, UNKNOWN))


def test_a_newer_model_type_is_refused_with_the_release_that_knows_it():
    found = EXAONE.unknown_to("5.23.0", place="of the image")
    assert found is not None and found.problem == (
        "has `model_type: exaone`, which transformers 5.23.0 of the image does not know; 5.24.0 is the first that does"
    )
    assert found.hint.startswith("`container.pins: latest` builds")
    here = EXAONE.unknown_to("5.23.0", install="pip install")
    assert here is not None and here.hint.startswith("`pip install 'transformers>=5.24.0'`; in an image, `container.pi")


def test_a_removed_model_type_is_refused_with_the_last_release_that_knew_it():
    found = REMOVED.unknown_to("5.23.0")
    assert found is not None and found.problem.endswith("does not know; 4.57.1 was the last that did")


def test_a_model_type_of_no_release_may_have_code_of_its_own_or_be_newer():
    found = UNKNOWN.unknown_to("5.23.0")
    assert found is not None and found.problem.endswith(f"does not know, nor any release up to {UNKNOWN.newest}")
    assert "its .py files" in found.hint and "container.pins: latest" in found.hint
