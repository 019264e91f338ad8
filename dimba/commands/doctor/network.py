"""The Hugging Face Hub: whether it answers. Jobs with everything on this machine need it not."""

import os

from dimba.commands.doctor.check import Check
from dimba.commands.doctor.scene import Scene
from dimba.host.http import ask
from dimba.host.hub import endpoint

SECONDS = 3
NAME = "Hub"
_ASKED = "/api/models/openai-community/gpt2"
_OFFLINE = ("", "0", "false", "no", "off")


def check_hub(_scene: Scene) -> list[Check]:
    """Any answer will do, but one of a portal that one has to log in to."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() not in _OFFLINE:
        return [Check(name=NAME, status="ok", detail="not asked: HF_HUB_OFFLINE is set")]
    answer = ask(endpoint() + _ASKED)
    if answer.status and answer.status < 500:
        return [Check(name=NAME, status="ok", detail=f"{endpoint()} answers")]
    return [silent(answer.why)]


def silent(why: str) -> Check:
    """The line where it does not answer."""
    fix = f"`curl -I {endpoint()}`; a proxy: `export HTTPS_PROXY=…`; a mirror: `export HF_ENDPOINT=…`"
    detail = f"{endpoint()}: {why}; only what is on this machine can be used"
    return Check(name=NAME, status="warning", detail=detail, fix=fix)
