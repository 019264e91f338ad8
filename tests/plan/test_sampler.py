"""The sampler in a plan: which GPUs sample, what is refused before any is held, and the image that has vLLM."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dimba.common.errors import DimbaError
from dimba.host.facts import GpuFacts, HostFacts
from dimba.objectives.families import MASKED_BY_CODE
from dimba.objectives.grpo import GRPO
from dimba.options.param import flags_of
from dimba.plan.model import LaunchPlan
from tests.plan.test_memory import LARGE
from tests.plan.test_plan import FACTS, after, plan, refusal

OWN = replace(FACTS.trainer, path=Path("/project/scripts/finetuning/finetune_grpo.py"), flags=flags_of(GRPO.options))
CARDS = replace(FACTS, trainer=OWN)
CPU = replace(CARDS, gpu=GpuFacts(problem="none"))
BARE = replace(CARDS, image=None, engine=replace(FACTS.engine, reachable=False))


def grpo(args: str, facts: HostFacts = CARDS, *lines: str) -> LaunchPlan:
    return plan("\n".join(["mode: grpo", f"trainer_args: {{{args}}}", *lines]), facts)


def refused(args: str, facts: HostFacts = CARDS, *lines: str) -> DimbaError:
    return refusal("\n".join(["mode: grpo", f"trainer_args: {{{args}}}", *lines]), facts)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("", "completions sampled by transformers"),
        ("sampler: transformers", "completions sampled by transformers (as asked)"),
        ("sampler: continuous", "completions sampled by transformers in continuous batches"),
        ("sampler: vllm", "completions sampled by vLLM on the GPUs of training; it sleeps during a step"),
        ("use-vllm: true", "completions sampled by vLLM on the GPUs of training; it sleeps during a step"),
        ("sampler: vllm, sampler-gpus: 1", "completions sampled by vLLM on 1 GPU of its own"),
    ],
)
def test_the_plan_names_the_sampler(args: str, words: str):
    assert words in grpo(args).speed


def test_masked_diffusion_samples_by_itself_and_other_samplers_and_reward_models_are_refused():
    masked = replace(CARDS, checkpoint=replace(FACTS.checkpoint, family=MASKED_BY_CODE))
    assert "completions sampled by blocks of masked tokens" in grpo("block-length: 8, loss-type: wd1", masked).speed
    for args, key in (
        ("sampler: vllm", "sampler"),
        ("sampler-gpus: 1", "sampler-gpus"),
        ("use-vllm: true", "use-vllm"),
    ):
        error = refused(args, masked)
        assert f"trainer_args.{key}" in error.message and "by its own sampler" in error.message
    for args, why in (("block-length: 8", "nothing is masked"), ("loss-type: wd1", "ratios are exact")):
        assert why in refused(args).message
    open_pairs = replace(masked, data=replace(FACTS.data, summary=replace(FACTS.data.summary, compares=True)))
    for args, facts in (("reward: preference", masked), ("", open_pairs)):
        assert "cannot become a reward model" in refused(args, facts).message
    assert grpo("reward-model: a/b", open_pairs) and grpo("reward: numeric", open_pairs)


def test_gpus_that_only_sample_do_not_train_and_are_still_held():
    alone, shared = grpo("sampler: vllm, sampler-gpus: 1"), grpo("sampler: vllm")
    assert (alone.steps.processes, shared.steps.processes) == (1, 2)
    assert after(alone.argv, "--num_processes") == "1" and len(alone.gpus) == 2
    assert alone.environment["DIMBA_GPU_COUNT"] == "2"
    command = json.loads(alone.environment["DIMBA_SAMPLER"])
    assert command[:3] == ["python", "-m", "dimba.trainers.objectives.grpo.sampling.server"]
    assert command[3:] == [
        *("--model", "/work/base", "--gpus", "1", "--max-length", "1024", "--seed", "42", "--dtype", "bfloat16")
    ]
    assert alone.environment["DIMBA_SAMPLER_GPUS"] == "1" and "DIMBA_SAMPLER" not in shared.environment


def test_gpus_whose_memory_the_weights_fill_are_refused():
    cards = tuple(replace(each, memory_mib=24564) for each in FACTS.gpu.gpus)
    base = replace(FACTS.checkpoint, parameters=95 * 10**8)
    large = replace(CARDS, gpu=replace(FACTS.gpu, gpus=cards), checkpoint=base)
    error = refused("sampler: vllm, sampler-gpus: 1", large)
    assert "vLLM needs 17.7 GiB for weights on each GPU of its own" in error.message and "sampler-gpus" in error.hint


@pytest.mark.parametrize(
    ("args", "lines", "facts", "cause"),
    [
        ("sampler: vllm", ("method: qlora",), CARDS, "trainer_args.sampler: vLLM cannot take over the weights"),
        ("use-vllm: true", ("method: qlora",), CARDS, "trainer_args.use-vllm: vLLM cannot take over the weights"),
        ("sampler: vllm", (), CPU, "this job trains on the CPU"),
        ("sampler: vllm", ("accelerate: {strategy: fsdp2}",), CARDS, "an adapter on a sharded base (fsdp2)"),
        ("sampler: continuous", ("accelerate: {strategy: fsdp2}",), CARDS, "fsdp2 shards it"),
        ("sampler: continuous, use-vllm: true", (), CARDS, "`continuous` and vLLM cannot both sample"),
        ("sampler-gpus: 1", (), CARDS, "trainer_args.sampler-gpus: only vLLM samples on GPUs of its own"),
        ("sampler: vllm, sampler-gpus: 2", (), CARDS, "2 GPUs to sample on leave none of 2 to train on"),
        ("sampler: vllm", (), BARE, "trainer_args.sampler: vLLM is not installed here"),
    ],
)
def test_a_sampler_that_cannot_work_is_refused_before_a_gpu_is_held(
    args: str, lines: tuple[str, ...], facts: HostFacts, cause: str
):
    error = refused(args, facts, *lines)
    assert cause in error.message and error.hint


def test_vllm_that_is_installed_here_is_used_without_an_image():
    assert grpo("sampler: vllm", replace(BARE, packages=frozenset({"vllm"}))).image is None


def test_the_image_has_vllm_for_every_way_to_ask_for_it():
    asked = [{"sampler": "vllm"}, {"use-vllm": True}, {"sampler": "continuous"}, {"sampler": "auto"}, {}]
    assert [GRPO.image_extra(args) for args in asked] == ["-vllm", "-vllm", "", "", ""]


@pytest.mark.parametrize(
    ("asked", "instead"), [("sampler: vllm", "sampler=transformers"), ("use-vllm: true", "use-vllm=false")]
)
def test_vllm_that_does_not_fit_beside_training_is_refused_with_a_sampler_that_does(asked: str, instead: str):
    cards = replace(FACTS.gpu, gpus=(replace(FACTS.gpu.gpus[0], memory_mib=32607),))
    step = "training: {batch_size: 1, grad_accumulation_steps: 8}"
    error = refused(asked, replace(CARDS, gpu=cards, checkpoint=LARGE), step)
    assert "(peak: vLLM awake)" in error.message and f"`--set trainer_args.{instead}`" in error.hint
    assert "qlora" not in error.hint, "which vLLM refuses"
