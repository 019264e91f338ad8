"""The check that the Hugging Face Hub answers. Jobs with only local files do not need it."""

import os

from dimba.commands.doctor.check import Check
from dimba.commands.doctor.machine import Machine
from dimba.host.http import ask
from dimba.host.hub import endpoint

SECONDS = 3
NAME = "Hub"
_PATH = "/api/models/openai-community/gpt2"
_OFFLINE = ("", "0", "false", "no", "off")


def check_hub(_scene: Machine) -> list[Check]:
    """Whether the Hub answers; an error of the Hub counts as an answer, a login page of the network does not."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() not in _OFFLINE:
        return [Check(name=NAME, status="ok", detail="not contacted: HF_HUB_OFFLINE is set")]
    answer = ask(endpoint() + _PATH)
    if answer.status and answer.status < 500:
        return [Check(name=NAME, status="ok", detail=f"{endpoint()} answers")]
    return [unreachable(answer.why)]


def unreachable(why: str) -> Check:
    """The check if the Hub does not answer, with the cause `why`."""
    fix = f"`curl -I {endpoint()}`; a proxy: `export HTTPS_PROXY=…`; a mirror: `export HF_ENDPOINT=…`"
    detail = f"{endpoint()}: {why}; jobs can use local files only"
    return Check(name=NAME, status="warning", detail=detail, fix=fix)
