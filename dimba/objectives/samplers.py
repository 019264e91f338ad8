"""What samples completions during training: transformers, its continuous batching, or vLLM. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dimba.common.errors import BadInput
from dimba.options.grpo_table import SAMPLER, SAMPLER_GPUS, USE_VLLM

AUTO, TRANSFORMERS, CONTINUOUS, VLLM = SAMPLER.words
_TRANSFORMERS_HINT = f"leave out `{SAMPLER.name}` and `{USE_VLLM.name}`: transformers samples then"


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """The sampler of a job; `gpus` are those on which vLLM alone runs, 0 if it shares the GPUs of training."""

    name: str
    flag: str = SAMPLER.flag  # that named it
    gpus: int = 0
    contradicts: str = ""  # another sampler that is asked for as well

    @property
    def is_vllm(self) -> bool:
        """Whether vLLM samples."""
        return self.name == VLLM

    @property
    def is_served(self) -> bool:
        """Whether vLLM runs as a server on GPUs of its own."""
        return self.is_vllm and self.gpus > 0

    @property
    def shares_gpus(self) -> bool:
        """Whether vLLM runs on the GPUs of training."""
        return self.is_vllm and not self.is_served

    def refusal(self, method: str, *, on_cpu: bool, is_sharded: bool) -> BadInput | None:
        """The reason why it cannot sample in a job with this method, if there is one."""
        if self.gpus and not self.is_vllm:
            hint = f"set `{SAMPLER.name}: {VLLM}`, or leave out `{SAMPLER_GPUS.name}`"
            return BadInput("only vLLM samples on GPUs of its own", hint, key=SAMPLER_GPUS.flag)
        if cause := self._cause(method, on_cpu=on_cpu, is_sharded=is_sharded):
            return BadInput(cause, _TRANSFORMERS_HINT, key=self.flag)
        return None

    def _cause(self, method: str, *, on_cpu: bool, is_sharded: bool) -> str:
        if self.contradicts:
            return f"`{self.contradicts}` and vLLM cannot both sample"
        if self.is_vllm and method == "qlora":
            return "vLLM cannot take over the weights of a base in 4 bits (Q-LoRA)"
        if self.is_vllm and on_cpu:
            return "vLLM samples on a GPU, and this job trains on the CPU"
        if self.is_vllm and is_sharded and method != "full":
            return "vLLM cannot take over an adapter on a sharded base (fsdp2)"
        if self.name == CONTINUOUS and is_sharded:
            return "continuous batching needs the complete model on each GPU, and fsdp2 shards it"
        return ""


def sampler_of(args: Mapping[str, Any]) -> Sampler:
    """The sampler that `trainer_args` ask for; `use-vllm` is another name for `sampler: vllm`."""
    gpus = args.get(SAMPLER_GPUS.name)
    gpus = gpus if type(gpus) is int and gpus > 0 else 0
    written = args.get(SAMPLER.name, AUTO)
    name = written if written in SAMPLER.words else AUTO
    if args.get(USE_VLLM.name) is True:
        return Sampler(name=VLLM, flag=USE_VLLM.flag, gpus=gpus, contradicts="" if name in (AUTO, VLLM) else name)
    return Sampler(name=name, gpus=gpus)
