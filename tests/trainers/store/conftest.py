"""An S3 server for all tests here, and an empty bucket with a network of its own for each."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores import LOGIN, FaultyNetwork, Uploading, environment, s3_server


@pytest.fixture(scope="session")
def server() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture
def network(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyNetwork]:
    url = f"http://127.0.0.1:{server}"
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST"))
    urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"))
    for name, value in {**LOGIN, "AWS_ENDPOINT_URL": url, "DIMBA_STORE_PACE": "0.01"}.items():
        monkeypatch.setenv(name, value)
    network = FaultyNetwork(server)
    yield network
    network.close()


@pytest.fixture
def upload(network: FaultyNetwork, tmp_path: Path) -> Iterator:
    """Starts uploads of the run `r` in `tmp_path`, through the network with faults."""
    started: list[Uploading] = []

    def start(writer: str = "here", **more: str) -> Uploading:
        started.append(Uploading({**environment(tmp_path, network.url, writer), **more}))
        return started[-1]

    yield start
    for each in started:
        each.kill()
