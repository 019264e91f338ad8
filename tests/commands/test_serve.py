"""The server's HTTP layer and OpenAI's forms, over a session that needs no model."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dimba.commands.serve.http import Server
from dimba.commands.serve.model import ServedModel
from dimba.commands.serve.serve import ServeRequest, serve
from dimba.commands.talk.session import Watched
from dimba.common.errors import BadInput, HostCannot, RunFailed
from dimba.common.inference import END, LENGTH, REASONING, STOPPED, TEXT, Answer, Prompt, Sampling
from tests.conftest import hollow_checkpoint
from tests.memory_runner import Echo

CHAT = "/v1/chat/completions"
HELLO = {"model": "tuned", "messages": [{"role": "user", "content": "Hello"}]}


@dataclass
class Session:
    """Answers with `parts`; with `waits`, each part waits for `goes`, and `stop` ends the answer."""

    parts: tuple[tuple[str, str], ...] = ((REASONING, "Hm."), (TEXT, "It is "), (TEXT, "blue."))
    finish: str = END
    waits: bool = False
    error: Exception | None = None
    calls: tuple[dict[str, str], ...] = ()
    goes: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    is_stopped: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[Prompt, Sampling]] = field(default_factory=list)

    def ask(self, prompt: Prompt, sampling: Sampling, on_part: Any, model: int = 0) -> Answer:
        self.asked.append((prompt, sampling))
        if self.error:
            raise self.error
        found: dict[str, str] = {TEXT: "", REASONING: ""}
        for kind, text in self.parts:
            if self.waits:
                assert self.goes.acquire(timeout=10)
            if self.is_stopped.is_set():
                break
            found[kind] += text
            on_part(kind, text)
        finish = STOPPED if self.is_stopped.is_set() else self.finish
        self.is_stopped.clear()
        how: dict[str, Any] = {"finish": finish, "prompt_tokens": 7, "tokens": len(self.parts)}
        return Answer(text=found[TEXT], reasoning=found[REASONING], calls=self.calls, **how)

    def stop(self) -> None:
        self.is_stopped.set()
        self.goes.release()


@dataclass
class Client:
    server: Server
    session: Session
    log: list[str]

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=10)
        data = body if isinstance(body, bytes | None) else json.dumps(body)
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, content

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        status, _, content = self.request("POST", path, body, **headers)
        return status, json.loads(content)

    def events(self, body: Any, path: str = CHAT) -> list[Any]:
        status, headers, content = self.request("POST", path, {**body, "stream": True})
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        *chunks, end = content.decode().strip().split("\n\n")
        assert end == "data: [DONE]"
        return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]

    @contextmanager
    def posting(self, body: Any) -> Iterator[socket.socket]:
        """A connection on which a chat was requested, and nothing is read yet."""
        data = json.dumps(body).encode()
        with socket.create_connection(("127.0.0.1", self.server.server_port), timeout=10) as connection:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sendall(head.encode() + data)
            yield connection


@contextmanager
def serving(session: Session | None, key: str = "") -> Iterator[Client]:
    log: list[str] = []
    with Server(0, ServedModel("tuned", session), log.append, key).running() as server:
        yield Client(server, session or Session(), log)


@pytest.fixture
def client() -> Iterator[Client]:
    with serving(Session()) as found:
        yield found


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    """For requests that change nothing."""
    with serving(Session()) as found:
        yield found


def until(is_so: Any) -> None:
    ends = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_chat_is_answered_with_its_reasoning_apart(shared: Client):
    status, found = shared.post(CHAT, HELLO)
    assert (status, found["object"], found["model"]) == (200, "chat.completion", "tuned")
    [choice] = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": "It is blue.", "reasoning_content": "Hm."}
    assert choice["finish_reason"] == "stop"
    assert found["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def test_a_stream_has_the_parts_as_they_come_and_ends_with_its_reason(shared: Client):
    chunks = shared.events(HELLO)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[1:-1] == [{"reasoning_content": "Hm."}, {"content": "It is "}, {"content": "blue."}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_a_stream_ends_with_its_usage_where_that_was_asked_for(shared: Client):
    chunks = shared.events({**HELLO, "stream_options": {"include_usage": True}})
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["total_tokens"] == 10


def test_an_answer_at_its_limit_says_so(client: Client):
    client.session.finish = LENGTH
    assert client.post(CHAT, HELLO)[1]["choices"][0]["finish_reason"] == "length"


def test_calls_of_tools_stand_apart(client: Client):
    client.session.calls = ({"name": "look", "arguments": '{"at": "sky"}'},)
    [choice] = client.post(CHAT, HELLO)[1]["choices"]
    [call] = choice["message"]["tool_calls"]
    assert call["type"] == "function" and call["function"] == {"name": "look", "arguments": '{"at": "sky"}'}
    assert choice["finish_reason"] == "tool_calls"
    [streamed] = client.events(HELLO)[-2]["choices"][0]["delta"]["tool_calls"]
    assert streamed["index"] == 0 and streamed["function"] == call["function"]


def test_a_text_is_continued_without_a_template(client: Client):
    client.session.parts = ((TEXT, " a"), (TEXT, " b"))
    status, found = client.post("/v1/completions", {"model": "tuned", "prompt": "x"})
    assert (status, found["object"], found["choices"][0]["text"]) == (200, "text_completion", " a b")
    prompt, sampling = client.session.asked[0]
    assert (prompt.text, sampling.max_new_tokens) == ("x", 16)
    chunks = client.events({"prompt": ["x"]}, "/v1/completions")
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == " a b"


def test_what_a_request_asks_for_reaches_the_model(client: Client):
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "short."}]},
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "blue"},
    ]
    how = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "max_tokens": 9, "max_completion_tokens": 5, "user": "me"}
    body = {"messages": messages, "tools": tools, "chat_template_kwargs": {"enable_thinking": False}, **how}
    assert client.post(CHAT, body)[0] == 200
    prompt, sampling = client.session.asked[0]
    assert prompt.messages[0] == {"role": "system", "content": "Be short."}
    assert prompt.messages[2]["tool_calls"][0]["function"]["arguments"] == {"at": "sky"}, "as templates take them"
    assert prompt.tools == tuple(tools) and prompt.arguments == {"enable_thinking": False}
    assert sampling == Sampling(temperature=0.5, top_p=0.9, seed=3, max_new_tokens=5)
    client.post(CHAT, {**body, "tool_choice": "none"})
    assert client.session.asked[1][0].tools is None


def test_without_a_seed_two_answers_are_drawn_differently(client: Client):
    for _ in range(2):
        client.post(CHAT, HELLO)
    first, second = (sampling for _, sampling in client.session.asked)
    assert first.seed != second.seed and first.temperature == 1


@pytest.mark.parametrize(
    ("change", "param", "status"),
    [
        ({"messages": []}, "messages", 400),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", 400),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]", 400),
        ({"model": "gpt-5"}, "model", 404),
        ({"n": 2}, "n", 400),
        ({"logprobs": True}, "logprobs", 400),
        ({"response_format": {"type": "json_object"}}, "response_format", 400),
        ({"tool_choice": "required"}, "tool_choice", 400),
        ({"tools": 3}, "tools", 400),
        ({"temperature": -1}, "temperature", 400),
        ({"temperature": "hot"}, "temperature", 400),
        ({"top_p": 2}, "top_p", 400),
        ({"max_tokens": 0}, "max_tokens", 400),
        ({"max_tokens": True}, "max_tokens", 400),
        ({"stop": [""]}, "stop", 400),
        ({"stream": "yes"}, "stream", 400),
        ({"stream_options": 3}, "stream_options", 400),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages", 400),
        ({"frequency_penalty": 0.5}, "frequency_penalty", 400),
        ({"banana": 1}, "banana", 400),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_its_name(shared: Client, change: Any, param: str, status: int):
    before = len(shared.session.asked)
    found, body = shared.post(CHAT, {**HELLO, **change})
    assert (found, body["error"]["param"]) == (status, param)
    assert len(shared.session.asked) == before


def test_values_that_change_nothing_are_taken(shared: Client):
    neutral = {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "n": 1, "logprobs": False}
    assert shared.post(CHAT, {**HELLO, **neutral, "seed": None, "response_format": {"type": "text"}})[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_a_bad_request(client: Client, stream: bool):
    client.session.error = BadInput("the conversation has 9 tokens, and the model's context is 8", "shorten it")
    status, body = client.post(CHAT, {**HELLO, "stream": stream})
    assert status == 400 and "context is 8" in body["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_word_ends_the_answer_in_front_of_it_also_across_parts(client: Client, stream: bool):
    client.session.parts = tuple((TEXT, text) for text in ("One <", "no> tw", "o", " three", " four"))
    body = {**HELLO, "stop": ["<nope>", "two t", "two t"]}
    if stream:
        chunks = client.events(body)
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        finish = chunks[-1]["choices"][0]["finish_reason"]
    else:
        [choice] = client.post(CHAT, body)[1]["choices"]
        text, finish = choice["message"]["content"], choice["finish_reason"]
    assert (text, finish) == ("One <no> ", "stop")


def test_the_beginning_of_a_stop_word_is_sent_where_the_word_does_not_follow(client: Client):
    client.session.parts = ((TEXT, "a ST"),)
    chunks = client.events({**HELLO, "stop": "STOP"})
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "a ST"


@pytest.mark.parametrize("stream", [False, True])
def test_the_answer_of_a_client_that_has_gone_is_stopped(stream: bool):
    with serving(Session(parts=((TEXT, "x"),) * 9999, waits=True)) as client:
        with client.posting({**HELLO, "stream": stream}):
            client.session.goes.release()
            until(lambda: client.session.asked)
        client.session.goes.release(2)
        until(lambda: client.log)
        assert client.log[0].startswith(f"POST {CHAT} 499")
        client.session.waits, client.session.parts = False, ((TEXT, "y"),)
        assert client.post(CHAT, HELLO)[1]["choices"][0]["message"]["content"] == "y", "the next one is answered"


def test_requests_are_answered_one_at_a_time_in_their_order():
    with serving(Session(parts=((TEXT, "x"),), waits=True)) as client:
        answers: list[str] = []

        def ask(text: str) -> None:
            client.post(CHAT, {"messages": [{"role": "user", "content": text}]})
            answers.append(text)

        threads = []
        for number in range(4):
            threads.append(threading.Thread(target=ask, args=(str(number),)))
            threads[-1].start()
            until(lambda: len(client.server.model._queue) == len(threads))
        assert len(client.session.asked) == 1
        client.session.goes.release(4)
        for thread in threads:
            thread.join(10)
        assert [prompt.messages[0]["content"] for prompt, _ in client.session.asked] == ["0", "1", "2", "3"]


def test_a_client_that_leaves_the_queue_is_not_answered():
    with serving(Session(parts=((TEXT, "x"),), waits=True)) as client:
        with client.posting(HELLO):
            until(lambda: client.session.asked)
            with client.posting(HELLO):
                until(lambda: len(client.server.model._queue) == 2)
            until(lambda: client.log)
            client.session.goes.release()
            until(lambda: len(client.log) == 2)
        assert len(client.session.asked) == 1


def test_too_many_waiting_requests_are_asked_to_come_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dimba.commands.serve.model._MOST_WAITING", 0)
    with serving(Session(parts=((TEXT, "x"),), waits=True)) as client, client.posting(HELLO):
        until(lambda: client.session.asked)
        assert client.post(CHAT, HELLO)[0] == 429
        client.session.goes.release()


def test_a_model_that_loads_or_has_ended_is_unavailable():
    with serving(None) as client:
        status, _, content = client.request("GET", "/health")
        assert (status, json.loads(content)["status"]) == (503, "loading")
        assert client.post(CHAT, HELLO)[0] == 503
        client.server.model.session = client.session
        assert client.request("GET", "/health")[0] == 200
        client.session.error = RunFailed("killed")
        assert client.post(CHAT, HELLO)[0] == 503
        client.server.model.ended.set()
        assert json.loads(client.request("GET", "/health")[2])["status"] == "ended"


def test_the_one_model_is_listed(shared: Client):
    _, _, content = shared.request("GET", "/v1/models")
    assert [each["id"] for each in json.loads(content)["data"]] == ["tuned"]
    assert shared.request("GET", "/v1/models/tuned")[0] == 200
    assert shared.request("GET", "/v1/models/other")[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", CHAT, 405), ("POST", "/v1/models", 405), ("GET", "/", 404), ("POST", "/v1/x", 404), ("PUT", CHAT, 501)],
)
def test_other_paths_and_methods_are_refused_in_openais_form(shared: Client, method: str, path: str, status: int):
    found, _, content = shared.request(method, path, b"{}")
    assert found == status and json.loads(content)["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 99999, b'{"messages": NaN}'])
def test_a_body_that_is_no_json_object_is_refused(shared: Client, body: bytes):
    assert shared.post(CHAT, body)[0] == 400


def test_a_huge_body_is_refused_before_it_is_read(shared: Client):
    status, body = shared.post(CHAT, b'{"messages": "' + b"x" * (17 << 20) + b'"}')
    assert status == 413 and "16 MiB" in body["error"]["message"]


def test_what_is_no_http_gets_a_refusal_and_the_server_lives_on(shared: Client):
    with socket.create_connection(("127.0.0.1", shared.server.server_port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    assert shared.request("GET", "/health")[0] == 200


def test_one_connection_carries_several_requests(shared: Client):
    connection = http.client.HTTPConnection("127.0.0.1", shared.server.server_port, timeout=10)
    for stream in (False, True, False):
        connection.request("POST", CHAT, json.dumps({**HELLO, "stream": stream}))
        response = connection.getresponse()
        assert response.status == 200 and b"blue." in response.read()
    connection.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:8000"},
        {"Host": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_web_pages_of_other_hosts_get_no_answer(shared: Client, headers: dict[str, str]):
    before = len(shared.session.asked)
    status, found, _ = shared.request("POST", CHAT, HELLO, **headers)
    assert status == 403 and "access-control-allow-origin" not in found
    assert len(shared.session.asked) == before


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1", "[::1]:8000", "LOCALHOST"])
def test_names_of_this_machine_are_answered_without_leave_for_web_pages(shared: Client, host: str):
    status, headers, _ = shared.request("GET", "/v1/models", Host=host)
    assert status == 200 and "access-control-allow-origin" not in headers


def test_a_key_is_asked_for_everywhere_but_for_health():
    with serving(Session(), key="geheim") as client:
        assert client.post(CHAT, HELLO)[0] == 401
        assert client.post(CHAT, HELLO, Authorization="Bearer wrong")[0] == 401
        assert client.request("GET", "/v1/models")[0] == 401
        assert client.request("GET", "/health")[0] == 200
        assert client.post(CHAT, HELLO, Authorization="Bearer geheim")[0] == 200


def test_the_log_has_a_line_per_request_and_nothing_of_the_prompt(client: Client):
    client.post(CHAT, {**HELLO, "messages": [{"role": "user", "content": "a secret"}]})
    client.post(CHAT, {**HELLO, "messages": [{"role": "user", "content": 3, "x": "a secret"}]})
    client.request("GET", "/health")
    with socket.create_connection(("127.0.0.1", client.server.server_port), timeout=10) as connection:
        connection.sendall(b"GET /\x1b[31m HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 404")
    until(lambda: len(client.log) == 3)
    assert client.log[0].startswith(f"POST {CHAT} 200, 7 + 3 tokens, 0.")
    assert not any("secret" in line or "blue" in line or "\x1b" in line for line in client.log)


def test_the_port_is_free_once_the_server_has_ended(client: Client):
    with serving(Session()) as other:
        port = other.server.server_port
    with Server(port, ServedModel("again"), lambda _: None).running():
        pass


class Quiet:
    """A reporter that shows nothing."""

    def note(self, text: str) -> None: ...
    def progress(self, what: str, done: int, total: int) -> None: ...
    def ended(self) -> None: ...


def test_a_busy_port_is_refused_before_the_model_is_loaded_with_its_holder(client: Client, tmp_path: Path):
    port = client.server.server_port
    with pytest.raises(HostCannot, match=rf"port {port} is busy: .*\(pid \d+\) listens on it") as refused:
        serve(ServeRequest(model=str(hollow_checkpoint(tmp_path / "base")), port=port), Quiet(), lambda _: None)
    assert "--port" in refused.value.hint


def test_a_key_that_the_environment_lacks_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(BadInput, match="MY_KEY"):
        serve(ServeRequest(model="x", key_variable="MY_KEY"), Quiet(), lambda _: None)


def test_the_end_of_a_model_is_noticed_between_two_answers():
    echo, ended = Echo(), threading.Event()
    watched = Watched(echo, ended.set)
    watched.send("abc")
    assert next(watched.lines()) == "cba"
    assert not ended.is_set()
    echo.queue.put(None)
    assert ended.wait(10)
    assert list(watched.lines()) == []
