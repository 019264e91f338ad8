"""The address of a store: a place, and never a login."""

import pytest

from dimba.common.errors import BadInput
from dimba.spec import parse_spec
from tests.conftest import SPEC


def problems(address: str) -> str:
    with pytest.raises(BadInput) as caught:
        parse_spec(f"{SPEC}output_store: {address}\n".encode(), source="job.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["s3://bucket", "s3://bucket/a/b", "gs://bucket/a", "hf://datasets/me/x", "file:///data/x", "abfs://c@account/x"],
)
def test_an_address_of_a_place_is_taken(address: str):
    assert parse_spec(f"{SPEC}output_store: {address}\n".encode(), source="x").spec.output_store == address


@pytest.mark.parametrize(
    "address", ["bucket/a", "/data/x", "s3:/bucket", "s3://", "s3:///a", "s3://b/../c", "file://x/y"]
)
def test_what_is_no_address_is_refused_with_an_example(address: str):
    assert "job.yaml:9: output_store: " in problems(address) and "://" in problems(address)


def test_a_place_that_keeps_nothing_is_refused():
    assert "`memory://` is lost when the job ends" in problems("memory://x")
    assert "`https://` takes no files" in problems("https://host/x")


@pytest.mark.parametrize(
    "address",
    [
        "s3://key:secret-text@bucket/a",
        "s3://key@bucket/a",
        "s3://bucket/a?token=abc",
        "abfs://c:key@account/x",
        "s3://b/a#x",
    ],
)
def test_a_login_in_an_address_is_refused(address: str):
    found = problems(address)
    assert "`container.env`" in found and "secret-text" not in found.replace(address, "")
