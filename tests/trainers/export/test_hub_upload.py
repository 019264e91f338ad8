"""The upload to the Hub: what a token may do is known before anything is done, and nothing is public unless asked."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dimba.common.errors import BadInput, DimbaError, HostCannot
from tests.conftest import REPOSITORY
from tests.hub import at
from tests.trainers.export.hub_writer import Hub, user, writable_hub, written

TOKEN = "hf_of_the_stand_in"
WRITE = ["repo.content.read", "repo.write"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    with writable_hub(Hub(who=user())) as found:
        at(found.address, monkeypatch, token=TOKEN)
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", found.address, raising=False)
        monkeypatch.setattr("dimba.trainers.export.hub._WAIT", 0.01)
        yield found


def rights(name: str = "ada/model", *, public: bool = False) -> list[str]:
    from dimba.trainers.export.hub import Repository, check_rights

    return check_rights(Repository(name, public))


def scope(name: str, *permissions: str) -> dict[str, Any]:
    return {"entity": {"type": "user", "name": name}, "permissions": list(permissions)}


@pytest.mark.parametrize(
    ("who", "cause"),
    [
        (user("read"), "the token of ada may only read"),
        (user("fineGrained", scoped=[scope("ada", "repo.content.read")]), "no write access to ada/model"),
        (user("fineGrained", scoped=[scope("bob", *WRITE)]), "no write access to ada/model"),
        (None, "does not accept the token"),
    ],
)
def test_a_token_that_may_not_write_is_refused_before_anything_is_changed(hub: Hub, who: Any, cause: str):
    hub.who = who
    with pytest.raises(BadInput, match=cause) as refused:
        rights()
    assert "write access at https://huggingface.co/settings/tokens" in refused.value.hint and not hub.changes


@pytest.mark.parametrize(("role", "cause"), [("read", "ada may only read in org"), (None, "no member of org")])
def test_an_organisation_takes_only_what_its_members_may_write(hub: Hub, role: str | None, cause: str):
    hub.who = user(orgs={"org": role} if role else {})
    with pytest.raises(BadInput, match=cause):
        rights("org/model")


def test_tokens_that_may_write_pass(hub: Hub):
    assert rights() == [f"a new private repository: {hub.address}/ada/model"]
    hub.who = user("fineGrained", scoped=[scope("ada", *WRITE)])
    assert rights(public=True) == [f"a new public repository: {hub.address}/ada/model"]
    hub.who = user(orgs={"org": "contributor"})
    assert rights("org/model") and not hub.changes


def test_a_public_repository_is_written_only_with_public(hub: Hub):
    hub.repositories["ada/model"] = False
    with pytest.raises(BadInput, match="ada/model exists and is public") as refused:
        rights()
    assert "--public" in refused.value.hint
    assert rights(public=True) == [f"a new commit in {hub.address}/ada/model, which is public"]


def test_without_a_token_nothing_is_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(BadInput, match="no token for the Hub in HF_TOKEN"):
        rights()
    assert not hub.asked


def upload(folder: Path, *, public: bool = False) -> str:
    from dimba.trainers.export.hub import Repository
    from dimba.trainers.export.hub import upload as to_hub

    return to_hub(folder, Repository("ada/model", public), "a message", lambda *_: None)


@pytest.mark.parametrize("public", [False, True])
def test_a_folder_becomes_one_commit_in_a_private_repository_unless_asked(hub: Hub, tmp_path: Path, public: bool):
    folder = written(tmp_path / "export", **{"config.json": "{}", "README.md": "---\nlicense: mit\n---\n"})
    assert "/ada/model" in upload(folder, public=public)
    assert hub.repositories == {"ada/model": not public}
    assert hub.files["ada/model"] == {"config.json": b"{}", "README.md": b"---\nlicense: mit\n---\n"}
    assert len([each for each in hub.changes if "/commit/" in each]) == 1


def test_a_hub_that_fails_for_a_moment_is_asked_again(hub: Hub, tmp_path: Path):
    hub.failing = {"/api/repos/create": [(503, "overloaded"), (502, "bad gateway")], "/commit/": [(500, "oops")]}
    upload(written(tmp_path / "export", **{"config.json": "{}"}))
    assert hub.files["ada/model"] == {"config.json": b"{}"}


@pytest.mark.parametrize(
    ("status", "words", "kind", "cause"),
    [
        (403, "You don't have the rights", BadInput, "may not write to ada/model: You don't have the rights"),
        (413, "quota exceeded", HostCannot, "no room for it"),
        (400, "invalid metadata in README.md", BadInput, "refuses the files of ada/model: invalid metadata"),
    ],
)
def test_a_refused_commit_has_cause_and_next_step(
    hub: Hub, tmp_path: Path, status: int, words: str, kind: type[DimbaError], cause: str
):
    hub.failing = {"/commit/": [(status, words)] * 9}
    with pytest.raises(kind, match=cause) as refused:
        upload(written(tmp_path / "export", **{"config.json": "{}"}))
    assert refused.value.hint and TOKEN not in str(refused.value) and "ada/model" not in hub.files


def test_the_token_is_in_no_line_of_the_module(hub: Hub, tmp_path: Path):
    hub.who = None
    asked = json.dumps({"do": "rights", "name": "ada/model"})
    command = [sys.executable, "-P", "-m", "dimba.trainers.export", asked]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "does not accept the token" in json.loads(done.stdout)["error"]["cause"]
    assert TOKEN not in done.stdout + done.stderr and TOKEN not in asked
