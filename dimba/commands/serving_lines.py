"""What vLLM, llama.cpp, Ollama and transformers need to serve a model, as lines that can be copied."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from dimba.common.units import size
from dimba.objectives.families import CAUSAL
from dimba.objectives.family import Family

_WIDTH = 14
ADAPTER, MERGED, GGUF = "adapter", "merged", "gguf"


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model that is to be served: its folder, for a GGUF its file, for an adapter also its base."""

    kind: str
    path: Path
    name: str
    weight_bytes: int = 0
    base: str = ""
    rank: int = 0  # of an adapter
    context: int = 0  # tokens it was trained for; 0 if unknown
    family: Family = CAUSAL
    modelfile: bool = False  # whether a Modelfile lies beside the GGUF

    @property
    def label(self) -> str:
        """The name, as servers take one."""
        return re.sub(r"[^\w.-]+", "-", self.name.lower()).strip("-.") or "model"


def serving_lines(served: Served) -> list[str]:
    """A line for each server: its name and the command, then what it needs."""
    return [line for server, words in _KINDS[served.kind](served) for line in _lines(server, words)]


def _lines(server: str, words: list[str]) -> Iterator[str]:
    command, *needs = words
    yield f"{server:<{_WIDTH}}{command}"
    yield from (f"{'':<{_WIDTH}}  {need}" for need in needs)


_Rows = Iterator[tuple[str, list[str]]]


def _merged(served: Served) -> _Rows:
    folder, family = quote(str(served.path)), served.family
    if not family.generates:
        code = ", trust_remote_code=True" if family.by_code else ""
        loading = _python(f'{family.auto_class}.from_pretrained("{served.path}"{code})', registers=family.registers)
        yield "transformers", [loading, f"needs torch{', and dimba for its classes' if family.registers else ''}"]
        yield "dimba", [f"dimba chat {folder}", f"other servers know no {family.label.partition(' ')[2]}"]
        return
    yield "vLLM", [f"vllm serve {folder} --served-model-name {served.label}{_limit(served)}", _gpu(served)]
    yield "transformers", [_python(f'AutoModelForCausalLM.from_pretrained("{served.path}")'), "needs torch"]
    yield "llama.cpp", ["needs a GGUF: `dimba export … --gguf q4_k_m` writes and proves one"]
    yield "Ollama", ["needs a GGUF and its Modelfile: the same command writes both"]


def _adapter(served: Served) -> _Rows:
    base, folder = quote(served.base), quote(str(served.path))
    rank = f" --max-lora-rank {served.rank}" if served.rank > 16 else ""
    command = f"vllm serve {base} --enable-lora{rank} --lora-modules {served.label}={folder}"
    yield "vLLM", [command, f"{_gpu(served)}; `--merged` serves faster"]
    loading = f'AutoPeftModelForCausalLM.from_pretrained("{served.path}")'
    yield "transformers", [_python(loading, "peft"), "needs torch, peft and the base"]
    yield "llama.cpp", ["needs a GGUF: `dimba export … --gguf q4_k_m` merges the adapter, writes and proves one"]
    yield "Ollama", ["needs a GGUF and its Modelfile: the same command writes both"]


def _gguf(served: Served) -> _Rows:
    file = quote(str(served.path))
    context = f" -c {served.context}" if served.context else ""
    memory = f"needs {size(served.weight_bytes)} of memory and that of the context"
    server = f"llama-server -m {file} --jinja{context} --host 127.0.0.1 --port 8080"
    yield "llama.cpp", [server, f"{memory}; `--jinja` uses the template in the file, `-ngl 99` a GPU"]
    if served.modelfile:
        create = f"ollama create {served.label} -f {quote(str(served.path.parent / 'Modelfile'))}"
        yield "Ollama", [f"{create} && ollama run {served.label}", memory]
    else:
        yield "Ollama", ["has no Modelfile: export.json gives the reason"]
    yield "vLLM", ["reads few GGUF files, slowly: `dimba export … --merged` is for it"]
    yield "transformers", ["turns a GGUF back into full precision: `dimba export … --merged` is for it"]


def _python(loading: str, package: str = "transformers", registers: str = "") -> str:
    name = loading.partition(".")[0]
    before = f"import {registers}; " if registers else ""
    return f"python -c {quote(f'{before}from {package} import {name}; {loading}')}"


def _gpu(served: Served) -> str:
    # vLLM takes 90 % of a GPU: the rest of it is for the cache of the conversations.
    room = f" with more than {size(served.weight_bytes)}" if served.weight_bytes else ""
    return f"needs an NVIDIA GPU{room}; http://127.0.0.1:8000/v1 speaks OpenAI's protocol"


def _limit(served: Served) -> str:
    return f" --max-model-len {served.context}" if served.context else ""


_KINDS: dict[str, Callable[[Served], _Rows]] = {ADAPTER: _adapter, MERGED: _merged, GGUF: _gguf}
