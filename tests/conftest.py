"""Fixtures of all tests: small generated inputs, and the `dimba` command as a user runs it."""

import gc
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.forks import Forks

# Set before torch is imported: on busy cores, threads that wait for each other make a tiny model ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Read when huggingface_hub is imported, by some tests' modules: without it, a name that does not exist takes 45 s.
os.environ["HF_HUB_OFFLINE"] = "1"
# Hundreds of processes import dimba: each would compile it again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

REPOSITORY = Path(__file__).resolve().parents[1]
TEST_BASE = "dimba-test-base:bookworm"
NO_ENGINE = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

QUESTIONS = [{"question": f"What is {n} + {n}?", "answer": f"It is {n + n}."} for n in range(12)]


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary cache for findings and tokens of all tests."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, caches: Path) -> None:
    for name in ("DIMBA_RUNS", "DIMBA_GPU_PATH", "DIMBA_CA_CERT", "DIMBA_WHEELS", "HF_TOKEN", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DIMBA_BASE_IMAGE", TEST_BASE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(caches))


@pytest.fixture(autouse=True, scope="module")
def _frozen_heap() -> None:
    """Keeps the imported modules out of later garbage collections: each training run asks for some, of 0.3 s each."""
    gc.collect()
    gc.freeze()


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def hollow_checkpoint(folder: Path) -> Path:
    """Write a checkpoint that is complete for the launcher: real headers and a few bytes of weights, without torch."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"}), encoding="utf-8")
    tensors = {
        "model.embed_tokens.weight": {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]},
        "model.layers.0.mlp.up_proj.weight": {"dtype": "F32", "shape": [3, 2], "data_offsets": [32, 56]},
    }
    header = json.dumps(tensors).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(56))
    return folder


_TWO_GPUS = """#!/bin/sh
[ "$FAKE_GPUS" = none ] && { echo "NVIDIA-SMI has failed" >&2; exit 9; }
case "$*" in *compute-apps*) exit 0 ;; esac
for i in 0 1; do echo "$i, GPU-$i, NVIDIA RTX 4090, 24564, 8.9, 580.95"; done
"""


def pretend_gpus(folder: Path) -> dict[str, str]:
    """The environment in which `nvidia-smi` lists two GPUs; its script is written into `folder`."""
    folder.mkdir(parents=True)
    (folder / "nvidia-smi").write_text(_TWO_GPUS, encoding="utf-8")
    (folder / "nvidia-smi").chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


SPEC = """\
version: 1
mode: sft
base_checkpoint: base
dataset: {path: data.jsonl}
method: lora
training: {batch_size: 2, grad_accumulation_steps: 2, max_steps: 3, max_length: 128}
output_dir: out
resources: {gpus: none}
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A folder with a complete job: a hollow checkpoint, questions and answers, job.yaml."""
    hollow_checkpoint(tmp_path / "base")
    write_rows(tmp_path / "data.jsonl", QUESTIONS)
    (tmp_path / "job.yaml").write_text(SPEC, encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real Llama of 0.4 M parameters with a tokenizer and a chat template."""
    from dimba.trainers.tiny import make_checkpoint

    folder = tmp_path_factory.mktemp("tiny") / "base"
    make_checkpoint(folder, [text for row in QUESTIONS for text in row.values()])
    folder.parent.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


@pytest.fixture
def tiny_job(job: Path, tiny_checkpoint: Path) -> Path:
    """The folder of `job` with a checkpoint that can be trained."""
    text = (
        (job / "job.yaml")
        .read_text(encoding="utf-8")
        .replace("base_checkpoint: base", f"base_checkpoint: {tiny_checkpoint}")
    )
    (job / "job.yaml").write_text(text, encoding="utf-8")
    return job


MAKE_LLAMA = REPOSITORY / "docker" / "llama" / "make_llama.py"


@pytest.fixture(scope="session")
def llama_wheel() -> Path:
    """The wheel of llama.cpp, which can be imported; made if DIMBA_REQUIRE_LLAMA is set, else the test is skipped."""
    from dimba.trainers.export.gguf import library

    command = [sys.executable, str(MAKE_LLAMA)]
    if os.environ.get("DIMBA_REQUIRE_LLAMA"):  # waits for another process that makes it
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    if not library.is_here():
        pytest.skip(f"llama.cpp is not here: `python3 {MAKE_LLAMA.relative_to(REPOSITORY)}` makes it, in minutes")
    return next((library.cache_home() / "llama").glob(f"dimba_llama-{library.VERSION}-*.whl"))


Dimba = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """The process that forks commands, which then need not start Python and import dimba."""
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()


@pytest.fixture
def dimba(forks: Forks) -> Dimba:
    """Runs the command in a fork; a traceback in its output fails the test."""

    def run(*args: str, cwd: Path, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        status, out, err = forks.run(
            list(args), cwd, {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}, timeout
        )
        assert "Traceback" not in out + err, err
        return subprocess.CompletedProcess(args, status, out, err)

    return run


@pytest.fixture
def new_dimba() -> Dimba:
    """Runs `python -m dimba`, for tests that depend on Python's start or on its import path."""

    def run(*args: str, cwd: Path, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "dimba", *args],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """The real engine with the test base image; without it tests skip, or fail if DIMBA_REQUIRE_ENGINE is set."""
    from dimba.runners.docker.engine import Engine, connect
    from dimba.runners.docker.image import present

    found = connect()
    problem = found.problem if not isinstance(found, Engine) else ""
    if isinstance(found, Engine) and not present(found.api, TEST_BASE):
        problem = f"no image {TEST_BASE}"
    if problem and os.environ.get("DIMBA_REQUIRE_ENGINE"):
        pytest.fail(f"an engine is required here: {problem}")
    if problem:
        pytest.skip(f"NO CONTAINER ENGINE TESTED: {problem}")
    yield found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "engine" in getattr(item, "fixturenames", ()):
            item.add_marker("engine")
