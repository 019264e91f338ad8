"""`dimba serve --engine vllm`: what vLLM gets, what it is not given, and how it ends, with a stand-in for vLLM.

vLLM itself needs a GPU. The stand-in has its command, its Unix socket, and a second process, as vLLM's engine is one.
"""

import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

import openai
import pytest

from dimba.commands.serve.engines import check_vllm
from dimba.common.errors import BadInput, HostCannot
from dimba.common.trained import TrainedModel
from dimba.jobs.model_source import ModelRequest, find_model
from dimba.trainers.inference.vllm_server import arguments
from tests.commands.test_serve import Quiet
from tests.conftest import hollow_checkpoint, pretend_gpus
from tests.serving import served, until

STAND_IN = """\
import json, os, socketserver, subprocess, sys, time
from http.server import BaseHTTPRequestHandler

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def address_string(self): return "socket"
    def reply(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.reply({"object": "list", "data": [{"id": "x", "object": "model", "created": 0, "owned_by": "vllm"}]})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not asked.get("stream"):
            self.reply({"id": "1", "object": "chat.completion", "created": 0, "model": "x", "choices": [{"index": 0,
                "finish_reason": "stop", "message": {"role": "assistant", "content": "n is %s" % asked.get("n")}}]})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.close_connection = True
        try:
            for number in range(1000):
                chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "x",
                         "choices": [{"index": 0, "delta": {"content": str(number)}, "finish_reason": None}]}
                self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\\n\\n")
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            open(os.environ["NOTES"] + ".gone", "w").close()

child = subprocess.Popen(["sleep", "600"])
with open(os.environ["NOTES"], "w") as file:
    json.dump({"argv": sys.argv[1:], "pids": [os.getpid(), child.pid], "home": os.environ.get("VLLM_HOST_IP")}, file)
if os.environ.get("BREAKS"):
    child.kill()
    sys.exit("ValueError: No available memory for the cache blocks")
socketserver.ThreadingUnixStreamServer(sys.argv[sys.argv.index("--uds") + 1], Handler).serve_forever()
"""
ADAPTER: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 20,
    "lora_alpha": 16,
    "target_modules": ["up_proj"],
    "bias": "none",
}
HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in pretend_gpus(tmp_path / "bin").items():
        monkeypatch.setenv(name, value)


def adapter(folder: Path, **settings: Any) -> Path:
    base = hollow_checkpoint(folder / "base")
    tuned = folder / "tuned"
    tuned.mkdir()
    (tuned / "adapter_config.json").write_text(
        json.dumps({**ADAPTER, "base_model_name_or_path": str(base), **settings}), encoding="utf-8"
    )
    (tuned / "adapter_model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    return tuned


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": {"embed_tokens": [3]}},
        {"rank_pattern": {"up_proj": 4}},
        {"bias": "all"},
        {"r": 1024},
    ],
)
def test_an_adapter_that_vllm_would_serve_otherwise_is_refused(gpus: None, tmp_path: Path, settings: dict[str, Any]):
    source = find_model(str(adapter(tmp_path, **settings)), ModelRequest(runner="process"), Quiet())  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="vLLM"):
        check_vllm(source)


def test_a_plain_adapter_is_not_refused_and_without_a_gpu_everything_is(gpus: None, tmp_path: Path):
    tuned = str(adapter(tmp_path))
    check_vllm(find_model(tuned, ModelRequest(runner="process"), Quiet()))  # type: ignore[arg-type]
    with pytest.raises(HostCannot, match="vLLM needs a GPU"):
        check_vllm(find_model(tuned, ModelRequest(runner="process", gpus="none"), Quiet()))  # type: ignore[arg-type]


def test_a_gguf_export_is_left_to_llama_cpp(gpus: None, tmp_path: Path):
    export = adapter(tmp_path) / "gguf"
    export.mkdir()
    for name in ("export.json", "tuned-q8_0.gguf"):
        (export / name).touch()
    with pytest.raises(BadInput, match="GGUF"):
        check_vllm(find_model(str(export), ModelRequest(runner="process"), Quiet()))  # type: ignore[arg-type]


def test_vllm_is_told_the_base_the_adapter_its_rank_and_the_arguments_of_training(tmp_path: Path):
    tuned = adapter(tmp_path)
    (tuned / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    trained = TrainedModel(folder=str(tuned), base="/base", chat_template_kwargs='{"enable_thinking": false}')
    words = arguments(trained, {"name": "run-1", "socket": "/x/socket", "gpus": 2})
    told = dict(zip(words[1::2], words[2::2], strict=False))
    assert words[0] == "/base" and "--enable-lora" in words
    assert f"run-1={tuned}" in words and words[words.index("--max-lora-rank") + 1] == "32"
    assert words[words.index("--tokenizer") + 1] == str(tuned)
    assert told["--uds"] == "/x/socket" and told["--generation-config"] == "/x"
    assert words[-2:] == ["--tensor-parallel-size", "2"]
    assert words[words.index("--default-chat-template-kwargs") + 1] == '{"enable_thinking": false}'
    alone = arguments(TrainedModel(folder="/merged"), {"name": "run-1", "socket": "/x/socket", "gpus": 1})
    assert alone == ["/merged", "--uds", "/x/socket", "--generation-config", "/x", "--served-model-name", "run-1"]


@pytest.fixture
def stand_in(tmp_path: Path, gpus: None) -> dict[str, str]:
    """The environment in which the stand-in is vLLM."""
    package = tmp_path / "packages" / "vllm" / "entrypoints" / "cli"
    package.mkdir(parents=True)
    for folder in (package, *package.parents[:2]):
        (folder / "__init__.py").touch()
    (package / "main.py").write_text(STAND_IN, encoding="utf-8")
    path = f"{Path(__file__).parents[2]}{os.pathsep}{tmp_path / 'packages'}"
    return {"PYTHONPATH": path, "PATH": os.environ["PATH"], "NOTES": str(tmp_path / "notes.json")}


HOW = ("--runner", "process", "--gpus", "1", "--engine", "vllm", "--port", "0")


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.proof
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_vllm_answers_through_the_servers_own_port_and_ends_with_it(
    tiny_checkpoint: Path, tmp_path: Path, stand_in: dict[str, str], number: signal.Signals
):
    with served(tmp_path, str(tiny_checkpoint), *HOW, **stand_in) as serving:
        notes = json.loads(Path(stand_in["NOTES"]).read_text())
        place = Path(notes["argv"][notes["argv"].index("--uds") + 1])
        assert notes["argv"][:2] == ["serve", str(tiny_checkpoint)]
        assert json.loads((place.parent / "generation_config.json").read_text())["eos_token_id"]
        client = openai.OpenAI(base_url=serving.url, api_key="none", max_retries=0)
        found = client.chat.completions.create(model="base", messages=HELLO, n=2)
        assert found.choices[0].message.content == "n is 2", "vLLM decides what it takes"
        assert [each.id for each in client.models.list()] == ["x"]
        stream = client.chat.completions.create(model="base", messages=HELLO, stream=True)
        parts = iter(stream)
        assert [next(parts).choices[0].delta.content for _ in range(3)] == ["0", "1", "2"]
        stream.close()
        until(Path(stand_in["NOTES"] + ".gone").exists, 20)
        with pytest.raises(openai.NotFoundError):
            client.post("/load_lora_adapter", cast_to=object, body={})
        evil = urllib.request.Request(f"{serving.url}/models", headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(evil)
        assert serving.end(number) in (130, -9)
    until(lambda: not any(map(is_alive, notes["pids"])), 20)
    assert number == signal.SIGKILL or not place.parent.exists()


@pytest.mark.proof
def test_a_vllm_that_does_not_start_ends_the_command_with_its_last_lines(
    tiny_checkpoint: Path, tmp_path: Path, stand_in: dict[str, str]
):
    with served(tmp_path, str(tiny_checkpoint), *HOW, waits=False, BREAKS="1", **stand_in) as serving:
        assert serving.process.wait(60) == 1
    assert "No available memory for the cache blocks" in serving.log


@pytest.mark.proof
def test_without_vllm_the_command_names_the_runner_that_has_it(tiny_checkpoint: Path, tmp_path: Path, gpus: None):
    with served(tmp_path, str(tiny_checkpoint), *HOW, waits=False) as serving:
        assert serving.process.wait(60) == 3
    assert "vLLM is not installed here" in serving.log and "--runner docker" in serving.log
