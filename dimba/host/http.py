"""One GET request that returns JSON or the reason for its failure; the network never raises an exception."""

# Not huggingface_hub: 235 ms to the first answer, here 72; 13 packages; it waits 10 s for a slow resolver.

import json
import os
import re
import socket
import threading
from dataclasses import dataclass, field
from typing import Any

TIMEOUT = 5.0  # seconds, for one request
REFUSED = (401, 403, 404)
_MAX_BYTES = 32 << 20  # of one answer


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`status` is HTTP's, or 0 without an answer in JSON; `code` is the Hub's X-Error-Code."""

    status: int = 0
    code: str = ""
    why: str = ""
    body: dict[str, Any] = field(default_factory=dict)


def ask(url: str) -> Answer:
    """Request `url` without a token, and again with HF_TOKEN if refused; takes at most twice TIMEOUT seconds."""
    answer = _in_time(url, "")
    token = os.environ.get("HF_TOKEN", "").strip()
    # http.client would show a token with other characters in its error message.
    if answer.status in REFUSED and re.fullmatch("[!-~]+", token):
        answer = _in_time(url, token)
    return answer


def _in_time(url: str, token: str) -> Answer:
    # A socket's timeout covers neither the name lookup nor a server that sends single bytes slowly.
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(_get(url, token)), daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return answers[0] if answers else Answer(why=f"no answer within {TIMEOUT:g} s")


def _get(url: str, token: str) -> Answer:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        request = Request(url, headers={"User-Agent": "dimba"})  # noqa: S310  # HF_ENDPOINT is the user's own
        if token:
            request.add_unredirected_header("Authorization", f"Bearer {token}")  # a redirect must not receive it
        with urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310
            return _parse(response.read(_MAX_BYTES))
    except HTTPError as error:
        with error:
            return Answer(status=error.code, code=error.headers.get("X-Error-Code", ""), why=f"HTTP {error.code}")
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, socket.gaierror):
            return Answer(why=f"no network, or no such host ({reason.strerror})")
        why = str(reason or error) or type(error).__name__
        return Answer(why=why.splitlines()[0][:200])


def _parse(data: bytes) -> Answer:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    return Answer(status=200, body=body) if isinstance(body, dict) else Answer(why="the answer is not JSON of the Hub")


def mapping(value: object) -> dict[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[dict[str, Any]]:
    """The objects of a JSON list; empty for any other value."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def count(value: object) -> int | None:
    """The value if it is a positive integer, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
