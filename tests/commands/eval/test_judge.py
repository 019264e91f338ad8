"""A judge over HTTP: both orders, ties, nonsense, silence, and a key that appears nowhere."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from dimba.commands.eval.judge import Judge, Pair, Verdicts, verdict_in
from dimba.common.errors import BadInput, HostCannot

KEY = "sk-not-to-be-seen"
Reply = Callable[[str, str], "str | int"]  # (answer A, answer B) → what the judge says, or an HTTP status


class StandIn:
    """What a stand-in for a judge was asked, and with which keys."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.url = ""


@contextmanager
def judge_server(reply: Reply) -> Iterator[StandIn]:
    seen = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.asked.append(body)
            seen.keys.add(self.headers["Authorization"])
            text = body["messages"][-1]["content"]
            one, other = text.partition("# Answer A\n")[2].partition("\n\n# Better")[0].split("\n\n# Answer B\n")
            found = reply(one, other)
            data = json.dumps({"choices": [{"message": {"content": found}}]}).encode()
            self.send_response(found if isinstance(found, int) else 200)
            self.end_headers()
            self.wfile.write(b"" if isinstance(found, int) else data)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    seen.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()


def pairs(*answers: tuple[str, str]) -> list[Pair]:
    return [Pair([{"role": "user", "content": "Which?"}], *both) for both in answers]


def prefers_longer(one: str, other: str) -> str:
    return "A" if len(one) > len(other) else "B" if len(other) > len(one) else "TIE"


def compare(reply: Reply, *answers: tuple[str, str]) -> Verdicts:
    with judge_server(reply) as server:
        return Judge(url=server.url, model="m", wait=0.01).compare(pairs(*answers), lambda _done: None)


def test_a_judge_sees_each_pair_in_both_orders():
    with judge_server(prefers_longer) as server:
        judge = Judge(url=server.url, model="strict-1", wait=0)
        found = judge.compare(pairs(("long one", "short"), ("a", "longer"), ("same", "else")), lambda _done: None)
    assert found.values == (1, -1, 0) and found.contradictions == 0
    assert len(server.asked) == 6 and {each["model"] for each in server.asked} == {"strict-1"}
    assert all(each["temperature"] == 0 for each in server.asked)


def test_a_judge_that_always_prefers_the_first_place_has_found_ties():
    found = compare(lambda _one, _other: "A", ("x", "y"), ("y", "z"))
    assert found.values == (0, 0) and found.contradictions == 2


def test_equal_answers_are_a_tie_without_a_question_to_the_judge():
    with judge_server(prefers_longer) as server:
        found = Judge(url=server.url, model="m").compare(pairs(("same", " same ")), lambda _done: None)
    assert found.values == (0,) and not server.asked


def test_a_little_nonsense_is_counted_and_much_of_it_is_refused():
    answers = [("long one", "short")] * 9 + [("nonsense", "x")]
    found = compare(lambda one, other: "Well." if "nonsense" in one + other else prefers_longer(one, other), *answers)
    assert found.values == (*[1] * 9, None) and found.nonsense == 1
    with pytest.raises(BadInput, match="gave no verdict on 10 of 10 pairs"):
        compare(lambda _one, _other: "As an AI, I like both.", *[("long one", "short")] * 50)


def test_a_busy_judge_is_asked_again_and_one_that_stays_busy_is_an_error():
    begun = time.monotonic()
    states = iter([503, 429])
    lock = threading.Lock()

    def busy_first(one: str, other: str) -> str | int:
        with lock:
            return next(states, None) or prefers_longer(one, other)

    assert compare(busy_first, ("long one", "short")).values == (1,)
    with pytest.raises(HostCannot, match="does not answer: HTTP 503"):
        compare(lambda _one, _other: 503, ("long one", "short"))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (lambda _one, _other: "Both are lovely.", "answers a trial with 'Both are lovely.' instead of A, B or TIE"),
        (lambda _one, _other: 401, "refuses a request: HTTP 401"),
        (lambda _one, _other: 500, "does not answer: HTTP 500"),
    ],
)
def test_a_judge_that_cannot_judge_is_refused_before_it_is_needed(reply: Reply, words: str):
    with judge_server(reply) as server, pytest.raises(BadInput, match=words):
        Judge(url=server.url, model="m", wait=0.01).require_usable()


def test_an_address_without_a_judge_is_refused_in_time():
    begun = time.monotonic()
    with pytest.raises(BadInput, match="the judge does not answer"):
        Judge(url="http://127.0.0.1:9", model="m", wait=0.01).require_usable()
    with pytest.raises(BadInput, match="is not an address"):
        Judge(url="file:///etc/passwd", model="m").require_usable()
    assert time.monotonic() - begun < 5


def test_the_key_comes_from_the_environment_and_is_in_no_message(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(BadInput, match="has no JUDGE_KEY"):
        Judge(url="http://127.0.0.1:9", model="m", key_env="JUDGE_KEY").require_usable()
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with judge_server(prefers_longer) as server:
        Judge(url=server.url, model="m", key_env="JUDGE_KEY").require_usable()
    assert server.keys == {f"Bearer {KEY}"}
    with judge_server(lambda _one, _other: 403) as server, pytest.raises(BadInput) as caught:
        Judge(url=server.url, model="m", key_env="JUDGE_KEY", wait=0).require_usable()
    assert KEY not in str(caught.value) and KEY not in repr(Judge(url=server.url, model="m", key_env="JUDGE_KEY"))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("A", 1), ("b", -1), ("**TIE**", 0), ("[[A]]", 1), ("Verdict: B", -1), ("The better answer is A.", 1),
        ("Answer A is right.\nB is not.\n\nFinal verdict: A", 1), ("<think>B? No.</think>\nA", 1),
        ("A and B are both good", None), ("", None), ("I cannot tell", None), ("A\nor rather C", None),
    ],
)  # fmt: skip
def test_a_verdict_is_the_last_line_or_there_is_none(text: str, verdict: int | None):
    assert verdict_in(text) == verdict
