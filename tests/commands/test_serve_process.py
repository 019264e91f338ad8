"""`dimba serve` of an adapter as a process, asked by OpenAI's own client; how it ends."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from dimba.host.ports import free_port
from dimba.trainers.tiny import conversations, make_checkpoint
from tests.conftest import Dimba, pretend_gpus
from tests.serving import Serving, fetched, served, until
from tests.trainers.test_trained import save_adapter

pytestmark = pytest.mark.proof

HERE = ("--runner", "process", "--gpus", "none", "--port", "0")
HELLO = [{"role": "user", "content": "What colour is the sky?"}]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    texts = [message["content"] for row in conversations() for message in row["messages"]]
    make_checkpoint(folder / "base", texts, hidden_size=32, intermediate_size=48, max_position_embeddings=1024)
    save_adapter(folder / "base", folder / "tuned", added=("<|call|>",))
    return folder / "tuned"


@pytest.fixture(scope="module")
def server(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with served(tmp_path_factory.mktemp("server"), str(adapter), *HERE) as serving:
        yield serving


@pytest.fixture
def client(server: Serving) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


def chat(client: openai.OpenAI, **how: Any) -> Any:
    return client.chat.completions.create(**{"model": "tuned", "messages": HELLO, "max_tokens": 12, **how})


def test_openais_client_gets_the_answer_of_dimba_generate(client: openai.OpenAI, adapter: Path, dimba: Dimba):
    assert [each.id for each in client.models.list()] == ["tuned"]
    answer = chat(client, temperature=0)
    words = ("--runner", "process", "--gpus", "none", "--max-new-tokens", "12", "--json")
    done = dimba("generate", str(adapter), HELLO[0]["content"], *words, cwd=adapter.parent)
    expected = json.loads(done.stdout)
    assert answer.choices[0].message.content == expected["answer"]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (expected["prompt_tokens"], 12)
    assert answer.choices[0].finish_reason == "length"


def test_openais_client_streams_what_it_gets_at_once(client: openai.OpenAI):
    stream = chat(client, seed=5, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == chat(client, seed=5).choices[0].message.content != chat(client, seed=6).choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 12


def test_openais_client_continues_a_text(client: openai.OpenAI):
    found = client.completions.create(model="tuned", prompt="The colour of", temperature=0)
    assert found.usage.completion_tokens <= 16 and found.usage.prompt_tokens < 6


def test_openais_client_raises_its_own_errors(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError):
        chat(client, model="gpt-5")
    with pytest.raises(openai.BadRequestError, match=r"the model's context is 1,024"):
        chat(client, messages=[{"role": "user", "content": "word " * 3000}])
    with pytest.raises(openai.BadRequestError, match="`n`"):
        chat(client, n=2)


def test_a_stop_word_ends_the_generation(client: openai.OpenAI):
    whole = chat(client, temperature=0, max_tokens=900)
    word = whole.choices[0].message.content[20:24]
    found = chat(client, temperature=0, max_tokens=900, stop=word)
    text = found.choices[0].message.content
    assert whole.choices[0].message.content.startswith(text) and word not in text
    assert found.choices[0].finish_reason == "stop" and found.usage.completion_tokens < 100


def test_a_client_that_has_gone_delays_the_next_one_by_a_moment(client: openai.OpenAI, server: Serving):
    stream = chat(client, stream=True, max_tokens=None, logit_bias={})
    next(iter(stream))
    stream.close()
    assert chat(client, max_tokens=1).usage.completion_tokens == 1
    assert " 499, the client has gone" in server.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_also_in_an_answer_and_leaves_nothing(adapter: Path, tmp_path: Path, number: Any):
    with served(tmp_path, str(adapter), *HERE) as serving:
        [worker] = children(serving.process.pid)
        client = openai.OpenAI(base_url=serving.url, api_key="none", max_retries=0)
        next(iter(chat(client, stream=True, max_tokens=None)))
        assert serving.end(number) == 130
    assert not Path(f"/proc/{worker}").exists()
    assert serving.get("/health")[0] == 0
    assert "nothing of it is left running" in serving.log


def test_a_killed_server_takes_its_model_along(adapter: Path, tmp_path: Path):
    with served(tmp_path, str(adapter), *HERE) as serving:
        [worker] = children(serving.process.pid)
        assert serving.end(signal.SIGKILL) == -9
    until(lambda: not Path(f"/proc/{worker}").exists(), 20)
    assert serving.get("/health")[0] == 0


def test_a_server_that_is_killed_while_it_loads_takes_its_model_along(adapter: Path, tmp_path: Path):
    with served(tmp_path, str(adapter), *HERE, waits=False) as serving:
        until(lambda: bool(children(serving.process.pid)))
        [worker] = children(serving.process.pid)
        serving.end(signal.SIGKILL)
    until(lambda: not Path(f"/proc/{worker}").exists(), 20)


def test_a_model_that_is_killed_ends_the_server_with_its_status(adapter: Path, tmp_path: Path):
    with served(tmp_path, str(adapter), *HERE) as serving:
        [worker] = children(serving.process.pid)
        os.kill(worker, signal.SIGKILL)
        assert serving.process.wait(20) == 1
    assert "ended with status 137" in serving.log


def test_health_reports_loading_until_the_model_answers(adapter: Path, tmp_path: Path):
    port = free_port("127.0.0.1")
    states = set()
    with served(tmp_path, str(adapter), *HERE[:-1], str(port), waits=False) as serving:

        def is_ready() -> bool:
            status, body = fetched(f"http://127.0.0.1:{port}/health")
            states.add((status, body and body["status"]))
            return status == 200

        until(is_ready)
        assert serving.process.poll() is None
    assert {(503, "loading"), (200, "ok")} <= states


def test_a_busy_port_ends_the_command_with_its_holder_and_status_3(server: Serving, adapter: Path, dimba: Dimba):
    port = server.root.rpartition(":")[2]
    done = dimba("serve", str(adapter), *HERE[:-1], port, cwd=adapter.parent)
    assert done.returncode == 3
    assert f"port {port} is busy" in done.stderr and f"(pid {server.process.pid})" in done.stderr
    assert "--port" in done.stderr and done.stdout == ""


def test_gpus_that_do_not_work_end_the_command_with_status_3(adapter: Path, dimba: Dimba, tmp_path: Path):
    gpus = pretend_gpus(tmp_path / "bin")
    done = dimba("serve", str(adapter), "--runner", "process", "--port", "0", cwd=adapter.parent, **gpus)
    assert done.returncode == 3 and "CUDA does not work" in done.stderr


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
