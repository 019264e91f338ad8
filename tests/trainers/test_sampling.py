"""Samplers: each samples from exactly the prompt's token ids, with the trainer's present weights, and is corrected for.

No vLLM is installed: one stands in for it that has the part of its interface that is called, and a real model within.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.conftest import write_rows

pytestmark = pytest.mark.slow
QUICK = ("--batch-size", "4", "--grad-accumulation-steps", "2", "--max-completion-length", "8", "--max-length", "128")
ROWS = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(4)]


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch: pytest.MonkeyPatch, caches: Path) -> None:
    monkeypatch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: caches / "tokens")


JOINED = ("q_proj", "k_proj", "v_proj")


class StandInModel(torch.nn.Module):
    """vLLM's model: its loader takes the names of the checkpoint, and it joins q, k and v, which have no such name."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model
        for parameter in model.parameters():
            parameter.data.uniform_(-1e-3, 1e-3)  # `load_format: dummy`

    def named_parameters(self, *_: Any, **__: Any) -> Any:
        return ((name, each) for name, each in self.inner.named_parameters() if name.split(".")[-2] not in JOINED)

    def load_weights(self, weights: Any) -> None:
        own = dict(self.inner.named_parameters())
        for name, value in weights:
            if not (name == "lm_head.weight" and self.inner.config.tie_word_embeddings):
                own[name].data.copy_(value)


@dataclass
class StandInLLM:
    """The part of `vllm.LLM` that TRL calls; keyword arguments that it lacks are errors."""

    model: str
    dtype: str
    load_format: str
    max_model_len: int
    max_num_seqs: int
    seed: int
    gpu_memory_utilization: float
    enable_sleep_mode: bool
    logprobs_mode: str
    generation_config: str
    distributed_executor_backend: str
    max_num_batched_tokens: int
    trust_remote_code: bool
    hf_overrides: dict[str, Any]
    asleep: set[str] = field(default_factory=set)
    prompts: list[list[int]] = field(default_factory=list)
    loses: str = ""  # the name of a weight that is not taken over

    def __post_init__(self) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(self.model, **self.hf_overrides)
        torch.manual_seed(self.seed)  # as vLLM seeds the process that it runs in
        self.loaded = StandInModel(AutoModelForCausalLM.from_config(config, dtype=getattr(torch, self.dtype)))
        runner = SimpleNamespace(model_runner=SimpleNamespace(model=self.loaded))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=runner))

    def sleep(self, level: int) -> None:
        assert level == 2
        for parameter in self.loaded.inner.parameters():
            parameter.data.fill_(math.nan)  # the memory is given back
        self.asleep = {"weights", "kv_cache"}

    def wake_up(self, tags: list[str]) -> None:
        self.asleep -= set(tags)

    def reset_prefix_cache(self) -> None:
        assert "weights" not in self.asleep

    def generate(self, prompts: list[dict[str, Any]], sampling_params: Any, use_tqdm: bool) -> list[Any]:
        assert not self.asleep and sampling_params.n == 1
        self.prompts += [each["prompt_token_ids"] for each in prompts]
        return [self._complete(each["prompt_token_ids"], sampling_params) for each in prompts]

    @torch.no_grad()
    def _complete(self, prompt: list[int], params: Any) -> Any:
        ids, drawn, logprobs = list(prompt), list[int](), list[Any]()
        while len(drawn) < params.max_tokens and not (drawn and drawn[-1] in params.stop_token_ids):
            logits = self.loaded.inner(torch.tensor([ids])).logits[0, -1].float() / params.temperature
            scores = logits.log_softmax(-1)
            token = int(torch.multinomial(scores.exp(), 1))
            ids.append(token)
            drawn.append(token)
            logprobs.append({token: SimpleNamespace(logprob=float(scores[token]), rank=1)})
        return SimpleNamespace(
            prompt_token_ids=prompt, outputs=[SimpleNamespace(token_ids=tuple(drawn), logprobs=logprobs)]
        )


def running(base: Path) -> StandInLLM:
    """The engine of a server that has started: its weights are random."""
    sizes: dict[str, Any] = {"max_model_len": 128, "max_num_seqs": 8, "max_num_batched_tokens": 4096}
    modes: dict[str, Any] = {"logprobs_mode": "processed_logprobs", "generation_config": "vllm", "hf_overrides": {}}
    alone: dict[str, Any] = {"distributed_executor_backend": "", "trust_remote_code": False, "seed": 1}
    memory: dict[str, Any] = {"gpu_memory_utilization": 0.9, "enable_sleep_mode": False, "load_format": "dummy"}
    return StandInLLM(model=str(base), dtype="float32", **sizes, **modes, **alone, **memory)


class StandInClient:
    """The part of TRL's client of vLLM's server that is called: weights come announced, and packed together."""

    engine: StandInLLM

    def __init__(self, base_url: str, group_port: int, connection_timeout: float) -> None:
        assert base_url.startswith("http://127.0.0.1:") and connection_timeout < 600

    def init_communicator(self, device: Any) -> None: ...

    def reset_prefix_cache(self) -> None: ...

    def update_named_params(self, metadata: Any, named: Any) -> None:
        packed = list(named)  # all of them are there before the first is sent
        assert [(name, str(value.dtype).split(".")[1], list(value.shape)) for name, value in packed] == metadata
        self.engine.loaded.load_weights(packed)

    def generate(self, prompts: Any, features: None, *, n: int, generation_kwargs: Any, **params: Any) -> Any:
        given = SimpleNamespace(n=1, **params, **generation_kwargs)
        every = [{"prompt_token_ids": ids} for ids in prompts for _ in range(n)]
        outputs = [each.outputs[0] for each in self.engine.generate(every, given, use_tqdm=False)]
        ids = [list(each.token_ids) for each in outputs]
        logprobs = [[[value.logprob for value in each.values()] for each in one.logprobs] for one in outputs]
        scored = [[[token] for token in each] for each in ids]
        return {"prompt_ids": prompts, "completion_ids": ids, "logprobs": logprobs, "logprob_token_ids": scored}


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[StandInLLM]]:
    """The engines that were started, the stand-in's."""
    from trl.generation import vllm_generation

    started: list[StandInLLM] = []

    def start(**settings: Any) -> StandInLLM:
        started.append(StandInLLM(**settings))
        return started[-1]

    before = dict(os.environ)  # starting vLLM makes this process a rank
    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_generation, "LLM", start, raising=False)
    monkeypatch.setattr(vllm_generation, "SamplingParams", SimpleNamespace, raising=False)
    monkeypatch.setattr(vllm_generation, "empty_cache", lambda: None)
    yield started
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


def make_trainer(base: Path, out: Path, sampler: str, *flags: str) -> Any:
    from dimba.objectives.grpo import GRPO
    from dimba.trainers.models.loading import choose_compute
    from dimba.trainers.objectives.grpo import trainer as grpo_trainer
    from dimba.trainers.objectives.grpo.prompt_loading import load_prompts
    from dimba.trainers.objectives.grpo.sampling.vllm import VllmSampler, VllmSettings

    rows = write_rows(out / "rows.jsonl", ROWS)
    argv = ["--base-checkpoint", str(base), "--dataset", str(rows), "--output-dir", str(out / "out"), *QUICK, *flags]
    name = "continuous" if sampler == "continuous" else "transformers"
    options = GRPO.parse([*argv, "--num-generations", "4", "--reward", "numeric", "--sampler", name])
    prompts = load_prompts(options, lambda _rows: None)
    trainer = grpo_trainer.make_trainer(options, prompts, [_Length()], choose_compute("cpu"), callbacks=[])
    if sampler == "vllm":
        dtype = torch.float32  # the trainer's, so that the probabilities are the same
        settings = VllmSettings(model=str(base), dtype=dtype, max_length=128, sequences=8, memory=0.3)
        trainer.sample_with(VllmSampler(trainer, settings))
    trainer.model.train()
    return trainer


class _Length:
    name = "letters"

    def __call__(self, completions: Any) -> list[float | None]:
        return [float(len(text)) for text in completions.texts]


def sampled(trainer: Any) -> dict[str, Any]:
    return dict(trainer._generate_and_score_completions([trainer.train_dataset[n // 4] for n in range(8)]))


def rows_of(batch: dict[str, Any], name: str) -> list[list[int]]:
    pairs = zip(batch[f"{name}_ids"], batch[f"{name}_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in pairs]


METHODS = {"full": (), "lora": ("--use-lora", "--lora-r", "4")}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sampler", ["transformers", "continuous", "vllm"])
def test_every_sampler_keeps_the_same_contract(
    sampler: str, method: str, tiny_checkpoint: Path, tmp_path: Path, vllm: list[StandInLLM]
):
    trainer = make_trainer(tiny_checkpoint, tmp_path, sampler, *METHODS[method], "--temperature", "0.7")
    batch = sampled(trainer)
    prompts, completions = rows_of(batch, "prompt"), rows_of(batch, "completion")
    assert prompts == [list(trainer._prompts[n // 4].ids) for n in range(8)], "the very tokens of `dimba data`"
    ends = set(trainer.eos_token_ids)
    for ids in completions:
        assert 0 < len(ids) <= 8 and not ends.intersection(ids[:-1]), "up to the first end token"
    assert len({tuple(ids) for ids in completions[:4]}) > 1, "the completions of one prompt differ"
    if sampler == "transformers":
        return
    # What came back is what is scored: the probabilities are those of the trainer for these tokens.
    mask = batch["completion_mask"].bool()
    gap = (batch["sampling_per_token_logps"] - batch["old_per_token_logps"])[mask]
    assert gap.abs().max() < 1e-4
    assert (batch["importance_sampling_ratio"][mask] - 1).abs().max() < 1e-3
    logged = {
        name: values[-1]
        for name, values in trainer._metrics["train"].items()
        if name.startswith(("sampler_", "sampling"))
    }
    assert logged.keys() == {f"sampler_{each}" for each in ("ratio_mean", "ratio_max", "distance", "kl", "truncated")}
    assert logged["sampler_ratio_mean"] == pytest.approx(1, abs=1e-4) and logged["sampler_truncated"] == 0


@pytest.mark.parametrize("method", METHODS)
def test_vllm_samples_with_the_weights_of_every_step(
    method: str, tiny_checkpoint: Path, tmp_path: Path, vllm: list[StandInLLM]
):
    trainer = make_trainer(tiny_checkpoint, tmp_path, "vllm", *METHODS[method])
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    sampled(trainer)
    assert trainer._sampler.compared > 5, "weights are read back"
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    trainer.state.global_step = 1
    batch = sampled(trainer)  # with the old weights it would raise
    gap = (batch["sampling_per_token_logps"] - batch["old_per_token_logps"])[batch["completion_mask"].bool()]
    assert gap.abs().max() < 1e-3
    assert vllm[0].prompts[0] == list(trainer._prompts[0].ids) and len(vllm[0].prompts) == 16


def test_a_policy_that_vllm_does_not_take_over_ends_the_run(
    tiny_checkpoint: Path, tmp_path: Path, vllm: list[StandInLLM], monkeypatch: pytest.MonkeyPatch
):
    from dimba.common.errors import RunFailed

    trainer = make_trainer(tiny_checkpoint, tmp_path, "vllm")
    monkeypatch.setattr(StandInLLM, "sleep", lambda *_, **__: None)  # the weights stay, as in a server
    sampled(trainer)
    for parameter in trainer.model.parameters():
        parameter.data *= -8
    trainer.state.global_step = 1
    monkeypatch.setattr(StandInModel, "load_weights", lambda *_: None)
    with pytest.raises(RunFailed, match=r"other values than the trainer for `model\.embed_tokens\.weight`"):
        sampled(trainer)
    monkeypatch.setattr(StandInModel, "named_parameters", lambda *_: ())  # nothing that could be read back
    with pytest.raises(RunFailed, match=r"vLLM does not have the trainer's weights at step 1: .* nats"):
        sampled(trainer)


@pytest.mark.parametrize("method", METHODS)
def test_a_server_samples_with_the_weights_that_it_is_sent(
    method: str, tiny_checkpoint: Path, tmp_path: Path, vllm: list[StandInLLM], monkeypatch: pytest.MonkeyPatch
):
    from trl.generation import vllm_generation

    from dimba.trainers.objectives.grpo.sampling.vllm import VllmSampler, VllmSettings

    StandInClient.engine = running(tiny_checkpoint)
    monkeypatch.setattr(vllm_generation, "VLLMClient", StandInClient)
    trainer = make_trainer(tiny_checkpoint, tmp_path, "transformers", *METHODS[method])
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    url = "http://127.0.0.1:9"
    settings = VllmSettings(model=str(tiny_checkpoint), dtype=torch.float32, max_length=128, sequences=8, url=url)
    trainer.sample_with(VllmSampler(trainer, settings))
    batch = sampled(trainer)
    gap = (batch["sampling_per_token_logps"] - batch["old_per_token_logps"])[batch["completion_mask"].bool()]
    assert gap.abs().max() < 1e-3 and rows_of(batch, "prompt") == [list(trainer._prompts[n // 4].ids) for n in range(8)]


def test_vllm_is_started_with_the_meaning_of_our_options(
    tiny_checkpoint: Path, tmp_path: Path, vllm: list[StandInLLM], monkeypatch: pytest.MonkeyPatch
):
    trainer = make_trainer(tiny_checkpoint, tmp_path, "vllm", "--temperature", "0.7", "--seed", "7")
    drawn = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(1)), "the job's seed, not vLLM's"
    (engine,) = vllm
    assert (engine.load_format, engine.generation_config, engine.logprobs_mode) == (
        "dummy",
        "vllm",
        "processed_logprobs",
    )
    assert (engine.max_model_len, engine.max_num_seqs, engine.gpu_memory_utilization) == (128, 8, 0.3)
    params: list[Any] = []
    complete = StandInLLM._complete
    monkeypatch.setattr(
        StandInLLM, "_complete", lambda self, ids, given: (params.append(given), complete(self, ids, given))[1]
    )
    sampled(trainer)
    assert params[0].temperature == 0.7 and params[0].max_tokens == 8 and params[0].ignore_eos
    assert params[0].stop_token_ids == trainer.eos_token_ids and not hasattr(params[0], "seed")


def test_rows_that_the_trainer_added_are_rows_of_vllm_too_and_a_server_without_them_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, vllm: list[StandInLLM]
):
    from dimba.common.errors import BadInput
    from dimba.trainers.objectives.grpo.sampling.vllm import VllmSampler, VllmSettings

    trainer = make_trainer(tiny_checkpoint, tmp_path, "transformers")
    trainer.model.resize_token_embeddings(trainer.model.config.vocab_size + 3)
    settings = VllmSettings(model=str(tiny_checkpoint), dtype=torch.float32, max_length=128, sequences=8)
    trainer.sample_with(VllmSampler(trainer, settings))
    sampled(trainer)
    assert vllm[0].hf_overrides == {"vocab_size": trainer.model.config.vocab_size}
    with pytest.raises(BadInput, match="`vocab_size` of the trained model differs"):
        VllmSampler(trainer, replace(settings, url="http://127.0.0.1:9"))


def test_an_engine_that_does_not_start_is_refused_in_one_line(
    tiny_checkpoint: Path, tmp_path: Path, vllm: list[StandInLLM], monkeypatch: pytest.MonkeyPatch
):
    from trl.generation import vllm_generation

    from dimba.common.errors import HostCannot

    def fail(**_: Any) -> None:
        raise ValueError("Free memory on device is less than desired\nmore of it")

    monkeypatch.setattr(vllm_generation, "LLM", fail)
    with pytest.raises(HostCannot, match="vLLM does not start: Free memory on device is less than desired") as raised:
        make_trainer(tiny_checkpoint, tmp_path, "vllm")
    assert raised.value.hint.startswith("leave out --sampler vllm")


def test_ratios_are_counted_over_real_tokens_and_truncated_for_the_loss():
    from dimba.trainers.objectives.grpo.sampling.ratio import CAP, agreement

    ours = torch.tensor([[-1.0, -2.0, -9.0], [-1.0, -1.0, -1.0]])
    theirs = torch.tensor([[-1.0, -3.0, 0.0], [-1.0, math.nan, -1.5]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    batch = {"old_per_token_logps": ours, "sampling_per_token_logps": theirs, "completion_mask": mask}
    found = agreement(batch, SimpleNamespace(gather=lambda values: values))
    ratios = [1.0, math.e, 1.0, math.exp(0.5)]
    assert found.ratio_mean == pytest.approx(sum(ratios) / 4) and found.ratio_max == pytest.approx(math.e)
    assert found.distance == pytest.approx(1.5 / 4) and found.truncated == 0.25 and CAP == 2
    assert found.divergence == pytest.approx((math.e - 2 + math.exp(0.5) - 1.5) / 4)


def test_the_float32_weights_are_back_bit_for_bit_after_sampling_in_half_precision():
    from dimba.trainers.objectives.grpo.sampling.continuous import half_weights

    model = torch.nn.Linear(8, 8)
    before, held = model.weight.detach().clone(), model.weight
    with pytest.raises(ZeroDivisionError), half_weights(model, torch.bfloat16):
        assert model.weight.dtype == torch.bfloat16
        raise ZeroDivisionError
    assert model.weight is held and torch.equal(model.weight, before)


def test_the_server_is_the_one_that_trl_expects_on_this_machine_alone(monkeypatch: pytest.MonkeyPatch):
    from dimba.trainers.objectives.grpo.sampling import server

    started: list[Any] = []
    monkeypatch.setattr("os.execv", lambda *call: started.append(call))
    for name in ("VLLM_SERVER_DEV_MODE", "VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "0")  # put back at the end
    argv = "--model base --gpus 2 --max-length 512 --seed 7 --dtype bfloat16 --host 127.0.0.1 --port 9".split()
    server.main(argv)
    ((_, command),) = started
    pairs = dict(pairwise(command))
    assert (pairs["serve"], pairs["--host"], pairs["--port"]) == ("base", "127.0.0.1", "9")
    assert (pairs["--tensor-parallel-size"], pairs["--max-model-len"], pairs["--seed"]) == ("2", "512", "7")
    assert (pairs["--load-format"], pairs["--logprobs-mode"]) == ("dummy", "processed_logprobs")
    assert os.environ["VLLM_SERVER_DEV_MODE"] == os.environ["VLLM_NO_USAGE_STATS"] == "1"


def test_cuda_graphs_are_kept_only_where_they_are_quicker(capsys: pytest.CaptureFixture[str]):
    from dimba.common.errors import RunFailed
    from dimba.trainers.objectives.grpo.sampling.continuous import GraphTrial

    def tried(with_graphs: float) -> GraphTrial:
        trial = GraphTrial(tried=True)
        for rate in (10.0, 1.0, 100.0, with_graphs):  # the first of each captures and compiles
            trial.record(trial.next(), rate)
        return trial

    assert tried(300).next() is True and "with CUDA graphs: 300 against 100 tokens/s" in capsys.readouterr().out
    assert tried(50).next() is False and "without CUDA graphs: 100 against 50" in capsys.readouterr().out
    failing = GraphTrial(tried=True)
    failing.fail(RunFailed("no capture"))
    assert failing.next() is False and "with them, no capture" in capsys.readouterr().out
    assert GraphTrial(tried=False).next() is None, "transformers decides"


def test_a_run_with_continuous_batches_learns_and_logs_the_sampler(tiny_checkpoint: Path, tmp_path: Path):
    from dimba.objectives.grpo import GRPO
    from dimba.trainers.command import run_trainer
    from dimba.trainers.objectives.grpo.train import train

    rows, out = write_rows(tmp_path / "rows.jsonl", ROWS), tmp_path / "out"
    named = ["--base-checkpoint", str(tiny_checkpoint), "--dataset", str(rows), "--output-dir", str(out)]
    argv = [*named, *QUICK, "--max-steps", "2", "--sampler", "continuous", "--reward", "length", "--device", "cpu"]
    assert run_trainer(train, GRPO.parse(argv)) == 0
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [each for each in steps if "reward" in each]
    assert len(steps) == 2 and all(each["sampler_kl"] < 1e-6 and each["sampled_per_second"] > 0 for each in steps)
    assert not any(name.startswith("sampling/") for name in steps[0]) and (out / "model.safetensors").exists()
