"""The fixture that builds the project's image for all engine tests."""

import os

import pytest

from dimba.runners.docker.engine import Engine
from dimba.runners.docker.runner import DockerRunner
from dimba.spec import parse_spec
from tests.conftest import REPOSITORY, TEST_BASE
from tests.plan.test_plan import SPARSE


@pytest.fixture(scope="session", autouse=True)
def built(engine: Engine) -> str:
    """The reference of the project's image, built once."""
    os.environ["DIMBA_BASE_IMAGE"] = TEST_BASE
    image = DockerRunner(engine, REPOSITORY).prepare(parse_spec(SPARSE.encode(), source="x").spec, lambda *_: None)
    assert image is not None
    return image.reference
