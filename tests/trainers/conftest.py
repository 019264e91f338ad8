"""Shorter continuations for the quick tests of training."""

import pytest


@pytest.fixture(autouse=True)
def _short_continuations(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a quick run would be spent on texts that few tests read; proofs read them complete."""
    if "slow" in request.keywords and "proof" not in request.keywords:
        monkeypatch.setattr("dimba.trainers.objectives.continuations._NEW_TOKENS", 4)
