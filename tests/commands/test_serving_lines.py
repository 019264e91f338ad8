"""What other programs need to serve a model."""

import shlex
from pathlib import Path

import pytest

from dimba.commands.serving_lines import ADAPTER, GGUF, MERGED, Served, serving_lines

MERGED_MODEL = Served(kind=MERGED, path=Path("/out put/merged"), name="My Run", weight_bytes=3 << 30, context=4096)


@pytest.mark.parametrize("kind", [MERGED, ADAPTER, GGUF])
def test_each_kind_of_export_has_a_line_for_each_server(kind: str):
    served = Served(kind=kind, path=Path("/models/x"), name="x", base="org/base")
    servers = {line.split()[0] for line in serving_lines(served) if not line.startswith(" ")}
    assert servers == {"vLLM", "transformers", "llama.cpp", "Ollama"}


def test_a_command_survives_a_folder_with_a_space_and_a_name_with_one():
    command = serving_lines(MERGED_MODEL)[0].removeprefix("vLLM").strip()
    expected = ["vllm", "serve", "/out put/merged", "--served-model-name", "my-run", "--max-model-len", "4096"]
    assert shlex.split(command) == expected
    assert "more than 3.0 GiB" in serving_lines(MERGED_MODEL)[1]


def test_an_adapter_names_its_base_and_a_rank_that_vllm_does_not_take_by_itself():
    adapter = Served(kind=ADAPTER, path=Path("/out"), name="run", base="org/base", rank=64)
    assert serving_lines(adapter)[0].endswith(
        "vllm serve org/base --enable-lora --max-lora-rank 64 --lora-modules run=/out"
    )


def test_ollama_is_served_from_the_modelfile_or_the_missing_one_is_reported():
    file = Path("/out/gguf/run-q4_k_m.gguf")
    with_file = Served(kind=GGUF, path=file, name="run", weight_bytes=1 << 30, modelfile=True)
    without = Served(kind=GGUF, path=file, name="run", weight_bytes=1 << 30)
    assert any(
        "ollama create run -f /out/gguf/Modelfile && ollama run run" in line for line in serving_lines(with_file)
    )
    assert any("has no Modelfile" in line for line in serving_lines(without))
    assert any("llama-server -m /out/gguf/run-q4_k_m.gguf --jinja" in line for line in serving_lines(without))
