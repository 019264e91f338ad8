"""vLLM as the sampler, on the GPUs of training or behind a server: TRL's engine with weights that are ours.

vLLM starts with random weights and gets all of them from the trainer, so that the first completions already prove the
synchronisation: a weight that did not arrive makes them improbable to the trainer (`ratio.py`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import set_seed
from transformers import AutoConfig
from trl.generation import vllm_generation
from trl.trainer.utils import ensure_master_addr_port

from dimba.common.errors import BadInput, DimbaError, HostCannot, RunFailed, first_line
from dimba.objectives.vllm_memory import BATCHED_TOKENS
from dimba.trainers.models.merged import merged_weights
from dimba.trainers.objectives.grpo.sampling.sampler import Completions, Ids, checked

if TYPE_CHECKING:
    from trl import GRPOTrainer

_HINT = "leave out --sampler vllm (in a spec `trainer_args.sampler`): transformers samples then"
_SERVER_SECONDS = 540.0  # to start: graphs are captured for minutes; the other ranks would wait 600 s
_SERVED = "--sampler-gpus"
_CONFIGURED = ("tie_word_embeddings", "vocab_size")  # rows were added, or a head of its own is declared


@dataclass(frozen=True, kw_only=True)
class VllmSettings:
    """How vLLM runs beside training; `url` is that of a server on GPUs of its own."""

    model: str  # a folder or Hub id: configuration and tokenizer, no weights
    dtype: torch.dtype
    max_length: int  # tokens of prompt and completion
    sequences: int  # sampled at once at most
    memory: float = 0.0  # share of a GPU while it samples
    url: str = ""
    trust_remote_code: bool = False


class VllmSampler(vllm_generation.VLLMGeneration):
    """Samples with vLLM; the weights are synchronised before the first sample of each optimiser step."""

    name = "vLLM"

    def __init__(self, trainer: GRPOTrainer, settings: VllmSettings) -> None:
        """Start vLLM, or connect to its server. All ranks must call it.

        Raises:
            BadInput: a server cannot have the trained model's vocabulary or head.
            HostCannot: vLLM does not start.
        """
        self._trainer, self._settings = trainer, settings
        self._synchronised_at = -1  # optimiser step
        self.compared = 0  # weights that were read back and found equal, of the last synchronisation
        self._changed = _reconfigured(trainer.model, settings)
        try:
            self._start(trainer, settings)
        except DimbaError:
            raise
        except Exception as error:
            raise HostCannot(f"vLLM does not start: {first_line(error)}", _HINT) from error
        # Starting it seeds the generators of this process with numbers of its own.
        set_seed(trainer.args.seed, device_specific=True)

    def _start(self, trainer: GRPOTrainer, settings: VllmSettings) -> None:
        super().__init__(
            model=trainer.model,
            accelerator=trainer.accelerator,
            processing_class=trainer.processing_class,
            mode="server" if settings.url else "colocate",
            server_base_url=settings.url or None,
            server_timeout=_SERVER_SECONDS,
            group_port=_free_port(),
            enable_sleep_mode=not settings.url,
            temperature=trainer.temperature,
            top_p=trainer.top_p,
            top_k=trainer.top_k,
            min_p=trainer.min_p,
            repetition_penalty=trainer.repetition_penalty,
            max_completion_length=trainer.max_completion_length,
            # Exactly the tokens that end a turn for the trainer, whatever the checkpoint's generation_config.json says.
            # No seed: with one per request all completions of a prompt would be the same.
            generation_kwargs={"ignore_eos": True, "stop_token_ids": list(trainer.eos_token_ids)},
        )

    def _init_vllm(self) -> None:
        if self._settings.url:
            super()._init_vllm()
            return
        process = self.accelerator
        os.environ |= {"RANK": str(process.process_index), "LOCAL_RANK": str(process.local_process_index)}
        os.environ["WORLD_SIZE"] = str(process.num_processes)
        os.environ["VLLM_NO_USAGE_STATS"] = "1"  # a job sends nothing elsewhere, and may have no network
        ensure_master_addr_port()
        settings = self._settings
        self.llm = vllm_generation.LLM(
            model=settings.model,
            hf_overrides=self._changed,
            load_format="dummy",
            dtype=str(settings.dtype).removeprefix("torch."),
            gpu_memory_utilization=settings.memory,
            max_model_len=settings.max_length,
            max_num_seqs=settings.sequences,
            max_num_batched_tokens=max(BATCHED_TOKENS, settings.sequences),
            enable_sleep_mode=True,
            distributed_executor_backend="external_launcher",  # in this process, as one of its ranks
            logprobs_mode="processed_logprobs",  # at the temperature, as the trainer computes them
            generation_config="vllm",  # not that of the checkpoint
            seed=self._trainer.args.seed + process.process_index,
            trust_remote_code=settings.trust_remote_code,
        )
        self.llm.sleep(level=2)  # without its weights, which come from the trainer
        self._llm_weights_sleeping = True
        process.wait_for_everyone()

    def sample(self, prompts: Ids, generations: int) -> Completions:
        """One completion for each prompt, by the trainer's present weights; raises RunFailed."""
        if self._trainer.state.global_step != self._synchronised_at:
            self.sync_weights()
            self._synchronised_at = self._trainer.state.global_step
        seen, ids, logprobs, scored = self._generate(prompts, generations)
        drawn = [[math.nan if each[0] is None else each[0] for each in row] for row in logprobs or []]
        tokens = [[each[0] for each in row] for row in scored or []]
        return checked(self.name, prompts, seen, Completions([list(each) for each in ids], drawn), scored=tokens)

    def _generate(self, prompts: Ids, generations: int) -> tuple[Any, ...]:
        try:
            return tuple(self.generate(prompts, None, generations))
        except (DimbaError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise RunFailed(f"vLLM does not sample: {first_line(error)}", _HINT) from error

    def sync_weights(self) -> None:
        """Give vLLM the trainer's weights; raises RunFailed if it does not take them."""
        self.compared = 0
        try:
            super().sync_weights()
        except (DimbaError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise RunFailed(f"vLLM does not take over the weights: {first_line(error)}", _HINT) from error

    def _iter_named_params(self) -> Iterator[tuple[str, torch.Tensor]]:
        weights = super()._iter_named_params() if self._dist.is_fsdp else merged_weights(self.model)
        own = {} if self._settings.url else dict(self._model_of_vllm().named_parameters())
        for name, value in weights:
            sent = value.to(self._settings.dtype) if value.is_floating_point() else value
            yield name, sent
            if name in own:  # loaded by now
                self._compare(name, own[name].data, sent)

    def _compare(self, name: str, theirs: torch.Tensor, sent: torch.Tensor) -> None:
        """Raise RunFailed if a weight that vLLM keeps as it is (not joined or split) is not the one it was given."""
        if theirs.shape != sent.shape or theirs.dtype != sent.dtype:
            return
        if not torch.equal(theirs, sent):
            raise RunFailed(f"vLLM has other values than the trainer for `{name}` after synchronising", _HINT)
        self.compared += 1

    def _model_of_vllm(self) -> Any:
        return self.llm.llm_engine.model_executor.driver_worker.model_runner.model


def _reconfigured(model: Any, settings: VllmSettings) -> dict[str, Any]:
    """The values of the trained model's configuration that differ from the config.json that vLLM reads.

    Raises:
        BadInput: there are some, and vLLM runs as a server, which has started with those of the file.
    """
    written = AutoConfig.from_pretrained(settings.model, trust_remote_code=settings.trust_remote_code)
    values = {name: getattr(model.config, name, None) for name in _CONFIGURED}
    changed = {name: value for name, value in values.items() if value != getattr(written, name, None)}
    if changed and settings.url:
        problem = f"`{next(iter(changed))}` of the trained model differs from {settings.model}, which the server has"
        raise BadInput(problem, "leave out --sampler-gpus: vLLM then starts with the trained model's", key=_SERVED)
    return changed


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
