"""The project's image, built once for all tests that need the engine."""

import os

import pytest

from dimba.runners.docker.engine import Engine
from dimba.runners.docker.runner import DockerRunner
from dimba.spec import parse_spec
from tests.conftest import REPOSITORY, TEST_BASE
from tests.plan.test_plan import SPARSE


@pytest.fixture(scope="session", autouse=True)
def built(engine: Engine) -> str:
    """The project's image, built once for all of these tests."""
    os.environ["DIMBA_BASE_IMAGE"] = TEST_BASE
    image = DockerRunner(engine, REPOSITORY).prepare(parse_spec(SPARSE.encode(), source="x").spec, lambda *_: None)
    assert image is not None
    return image.reference
