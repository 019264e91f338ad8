"""The memory estimate before launch: its terms, what it refuses, and the batch that it chooses."""

import json
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dimba.common.errors import DimbaError, HostCannot
from dimba.host.checkpoint import facts_of_tensors, look_at_checkpoint
from dimba.host.facts import CheckpointFacts, Gpu, GpuFacts
from dimba.objectives.families import MASKED_BY_CODE
from dimba.options.checkpointing import ALL, NONE, Checkpointing
from dimba.plan.fitting import fit_of
from dimba.plan.job import resolved
from dimba.plan.memory import estimate_memory
from dimba.plan.model import LaunchPlan, MemoryEstimate
from dimba.plan.share import Share
from dimba.spec import JobSpec, parse_spec
from tests.conftest import hollow_checkpoint
from tests.plan.test_plan import FACTS, SPARSE, plan

_GIB = 1 << 30
CONFIG = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}


def estimated(spec: JobSpec, checkpoint: CheckpointFacts, *, on_cpu: bool, share: Share) -> MemoryEstimate | None:
    return estimate_memory(resolved(spec), checkpoint, on_cpu=on_cpu, share=share)


def tensors(layers: int = 32) -> dict[str, dict[str, Any]]:
    """The headers of an 8 B Llama."""
    block = {
        "self_attn.q_proj": [4096, 4096],
        "self_attn.k_proj": [1024, 4096],
        "self_attn.v_proj": [1024, 4096],
        "self_attn.o_proj": [4096, 4096],
        "mlp.gate_proj": [14336, 4096],
        "mlp.up_proj": [14336, 4096],
        "mlp.down_proj": [4096, 14336],
        "input_layernorm": [4096],
        "post_attention_layernorm": [4096],
    }
    shapes = {f"model.layers.{n}.{name}.weight": shape for n in range(layers) for name, shape in block.items()}
    shapes |= {"model.embed_tokens.weight": [128256, 4096], "lm_head.weight": [128256, 4096]}
    shapes |= {"model.norm.weight": [4096]}
    return {name: {"shape": shape, "dtype": "BF16"} for name, shape in shapes.items()}


GPUS = (Gpu(index=0, memory_mib=81559),)
LARGE = replace(facts_of_tensors(CONFIG, tensors()), reference="/work/base")


def planned(added: str = "", *, mib: int | None = 24564, cards: int = 1, base: CheckpointFacts = LARGE) -> LaunchPlan:
    gpus = tuple(Gpu(index=n, uuid=f"GPU-{n}", memory_mib=mib, compute_capability=8.9) for n in range(cards))
    return plan(added, replace(FACTS, checkpoint=base, gpu=GpuFacts(gpus=gpus)))


def refused(added: str, **options: Any) -> HostCannot:
    with pytest.raises(DimbaError) as caught:
        planned(added, **options)
    assert isinstance(caught.value, HostCannot), caught.value
    return caught.value


def test_every_term_is_named_and_they_add_up():
    memory = planned("training: {batch_size: 2}").memory
    assert memory is not None and memory.total == sum(memory.terms.values())
    told = planned("training: {batch_size: 2}").as_json()["memory"]
    assert told["total"] == memory.total and told["lower_bound"] is False and told["peak"]
    assert sum(told[name] for name in memory.terms) == told["total"]
    assert told["weights"] == LARGE.parameters * 2 and told["inputs"] == 32 * 2 * 1024 * 4096 * 2
    json.dumps(told)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("layers", [None, 12, 0])
def test_more_at_once_never_needs_less(method: str, layers: int | None):
    spec = parse_spec(SPARSE.replace("lora", method).encode(), source="").spec
    usual = {"batch_size": 4, "accumulation": 4, "longest": 512, "checkpointing": Checkpointing(layers=layers)}
    for grown in ("batch_size", "accumulation", "processes", "longest"):
        shares = [Share(**{**usual, grown: n}) for n in (1, 2, 4, 64, 1024)]
        totals = [estimated(spec, LARGE, on_cpu=False, share=each).total for each in shares]  # type: ignore[union-attr]
        assert all(less <= more for less, more in pairwise(totals)), grown


def test_what_several_processes_share_is_divided():
    spec = parse_spec(SPARSE.replace("lora", "full").encode(), source="").spec
    whole, shared = (
        estimate_memory(
            resolved(spec), LARGE, on_cpu=False, share=Share(batch_size=1, accumulation=2, processes=4, shards=n)
        )
        for n in (1, 4)
    )
    assert whole and shared and shared.model_states == whole.model_states // 4
    assert shared.gathered and not shared.buckets and whole.buckets == whole.gradients


def test_grpo_counts_the_completions_of_a_whole_step_and_its_other_models():
    grpo = SPARSE.replace("mode: sft", "mode: grpo").replace("lora", "full")
    spec = parse_spec(f"{grpo}trainer_args: {{max-completion-length: 960}}\n".encode(), source="").spec
    small, large = (estimated(spec, LARGE, on_cpu=False, share=Share(batch_size=2, accumulation=n)) for n in (4, 512))
    assert small and large and large.peak == "sampling" and large.cache == 32 * 1024 * 1024 * 1024 * 8
    kept = spec.model_copy(update={"trainer_args": {"beta": 0.1, "reward": "preference"}})
    more = estimated(kept, LARGE, on_cpu=False, share=Share(batch_size=2, accumulation=4))
    assert more and (more.reference, more.reward) == (LARGE.parameters * 2, LARGE.parameters * 2)


def test_masked_diffusion_samples_a_batch_of_whole_rows_without_a_cache():
    grpo = SPARSE.replace("mode: sft", "mode: grpo")
    spec = parse_spec(f"{grpo}trainer_args: {{max-completion-length: 256}}\n".encode(), source="").spec
    one, more, twice = (
        estimated(spec, LARGE, on_cpu=False, share=Share(batch_size=size, accumulation=n, family=MASKED_BY_CODE))
        for size, n in ((16, 1), (16, 8), (32, 1))
    )
    assert one and more and twice and one.peak == "sampling" and not one.cache
    assert one.sampling == more.sampling == 16 * 1024 * 128256 * 6 and twice.sampling == 2 * one.sampling
    guided = spec.model_copy(update={"trainer_args": {**spec.trainer_args, "guidance": 1.5}})
    both = estimated(guided, LARGE, on_cpu=False, share=Share(batch_size=16, accumulation=1, family=MASKED_BY_CODE))
    assert both and both.sampling == 16 * 1024 * 128256 * 10


def test_vllm_beside_training_needs_weights_and_a_cache_of_its_own_while_it_samples():
    def grpo(args: str, method: str = "lora") -> MemoryEstimate:
        written = SPARSE.replace("mode: sft", "mode: grpo").replace("method: lora", f"method: {method}")
        spec = parse_spec(f"{written}trainer_args: {{{args}}}\n".encode(), source="").spec
        found = estimated(spec, LARGE, on_cpu=False, share=Share(batch_size=2, accumulation=4))
        assert found and found.total == sum(found.terms.values())
        return found

    shared, served = grpo("sampler: vllm"), grpo("sampler: vllm, sampler-gpus: 1")
    cache = 2 * 32 * 8 * 128 * 2 * 8 * 1024
    assert shared.peak == "vLLM awake" and not shared.gradients and not served.vllm and not served.cache
    assert LARGE.parameters * 2 + cache < shared.vllm < LARGE.parameters * 2 + cache + 2.5 * (1 << 30)
    asleep = grpo("sampler: vllm, max-completion-length: 960", "full")
    assert asleep.peak != "vLLM awake" and asleep.vllm == 1 << 30, "in full the step itself needs more"
    assert grpo("sampler: continuous").vllm == 0 < grpo("sampler: continuous").weights


def test_dpo_counts_both_answers_and_a_reference_in_half_precision():
    spec = parse_spec(SPARSE.replace("mode: sft", "mode: dpo").encode(), source="").spec
    share = Share(batch_size=2, accumulation=4)
    full, lora = (
        estimated(spec.model_copy(update={"method": method}), LARGE, on_cpu=False, share=share)
        for method in ("full", "lora")
    )
    assert full and lora and (full.reference, lora.reference) == (LARGE.parameters * 2, 0)
    sft = parse_spec(SPARSE.encode(), source="").spec
    alone = estimated(sft, LARGE, on_cpu=False, share=Share(batch_size=4, accumulation=4))
    assert alone and (lora.inputs, lora.mask) == (alone.inputs, alone.mask), "as four rows of SFT"


def test_pairs_without_a_reward_named_need_a_reward_model():
    grpo = SPARSE.replace("mode: sft", "mode: grpo").replace("lora", "full")
    spec = parse_spec(grpo.encode(), source="").spec
    named = spec.model_copy(update={"trainer_args": {"reward": "numeric"}})
    share = Share(batch_size=2, accumulation=4, compares=True)
    found, other = (estimated(each, LARGE, on_cpu=False, share=share) for each in (spec, named))
    assert found and (found.reference, found.reward) == (LARGE.parameters * 2, LARGE.parameters * 2)
    assert other and (other.reference, other.reward) == (0, 0)


def test_what_is_kept_of_every_layer_takes_the_place_of_its_input():
    spec = parse_spec(SPARSE.encode(), source="").spec
    share = Share(batch_size=4, accumulation=4, longest=512)
    again, kept = (
        estimated(spec, LARGE, on_cpu=False, share=replace(share, checkpointing=each)) for each in (ALL, NONE)
    )
    assert again and kept and (kept.adapter, kept.optimizer) == (again.adapter, again.optimizer)
    assert 12 * again.inputs < kept.inputs < 32 * again.inputs
    numbers = 4 * 512 * (2 * (4 * 14336 + 10 * 4096 + 7 * 8) + 2 * 4 * 4096 + 32 * 4) + 2 * 4 * 512 * 512
    assert kept.inputs in (numbers * 32, numbers * 31), "a mask of numbers, eleven vectors and the gated MLP's four"


def test_a_spec_decides_whether_activations_are_kept_and_the_caller_where_it_does_not():
    job = resolved(parse_spec(SPARSE.encode(), source="").spec)
    fit = replace(fit_of(job, replace(FACTS, checkpoint=LARGE), GPUS, 1), ours=True)
    on, off, auto = (fit.of(job.with_args({"activation-checkpointing": each})) for each in ("on", "off", "auto"))
    assert on.estimate() == auto.estimate() == replace(off, checkpointing=NONE).of(on.job).estimate()
    assert off.estimate() == replace(auto, checkpointing=NONE).estimate() != auto.estimate()


# What cannot fit.


def test_what_cannot_fit_is_refused_with_the_smallest_changes_that_would():
    error = refused("method: full\nlora: {r: 8, alpha: 16}")
    assert error.exit_status == 3 and "GiB of GPU memory, and a GPU has 24.0" in error.message
    assert "`--set method=lora`" in error.hint and "`--set method=qlora`" in error.hint
    assert "--set resources.memory_check=false" in error.hint


def test_each_way_that_is_offered_does_fit():
    added = "training: {batch_size: 32, grad_accumulation_steps: 2, max_length: 4096}"
    hint = refused(added).hint
    ways = [part.split("`")[1] for part in hint.split("; or ")]
    assert any("batch_size=8 --set training.grad_accumulation_steps=8" in way for way in ways)
    assert any("max_length" in way for way in ways)
    for way in ways:
        values = dict(each.split("=") for each in way.replace("--set ", "").split())
        numbers = {key.removeprefix("training."): value for key, value in values.items() if "training." in key}
        training = {"batch_size": 32, "grad_accumulation_steps": 2, "max_length": 4096, **numbers}
        text = ", ".join(f"{key}: {value}" for key, value in training.items())
        assert planned(f"method: {values.get('method', 'lora')}\ntraining: {{{text}}}").memory
    shorter = next(way for way in ways if way.startswith("--set training.max_length"))
    longer = int(shorter.rpartition("=")[2]) + 64
    refused(f"training: {{batch_size: 32, grad_accumulation_steps: 2, max_length: {longer}}}")


@pytest.mark.parametrize(
    ("added", "options"),
    [("resources: {memory_check: false}", {}), ("resources: {gpus: none}", {}), ("", {"mib": None})],
)
def test_without_a_known_card_or_when_told_to_nothing_is_refused(added: str, options: dict[str, Any]):
    assert planned(f"method: full\n{added}", **options).memory


# The batch.


def test_auto_takes_the_largest_batch_that_fits_and_keeps_the_batch_of_a_step():
    made = planned("method: qlora\ntraining: {batch_size: auto}")
    assert made.steps.effective_batch == 64 and made.steps.batch_size * made.steps.accumulation == 64
    assert made.argv[made.argv.index("--batch-size") + 1] == str(made.steps.batch_size)
    assert any("batch_size auto" in note and "the largest that fits" in note for note in made.notes)
    assert made.memory and made.memory.total <= 0.9 * 24564 * (1 << 20)
    twice = made.steps.batch_size * 2
    larger = f"training: {{batch_size: {twice}, grad_accumulation_steps: {64 // twice}}}"
    more = planned(f"method: qlora\n{larger}\nresources: {{memory_check: false}}").memory
    assert more and more.total > 0.9 * 24564 * (1 << 20)


def test_auto_is_the_same_step_on_any_number_of_cards():
    made = [planned("method: qlora\ntraining: {batch_size: auto}", cards=n, mib=81559) for n in (1, 2, 4)]
    assert {each.steps.effective_batch for each in made} == {64}
    odd = planned("method: qlora\ntraining: {batch_size: auto}", cards=3, mib=81559).steps
    assert odd.effective_batch == 66, "the nearest that three can share"


def test_a_desktop_on_the_card_is_taken_off_and_a_busy_card_waited_for():
    def batch(free: int | None) -> int:
        card = Gpu(index=0, uuid="GPU-0", memory_mib=24564, free_mib=free, compute_capability=8.9)
        facts = replace(FACTS, checkpoint=LARGE, gpu=GpuFacts(gpus=(card,)))
        return plan("method: lora\ntraining: {batch_size: auto, max_length: 1024}", facts).steps.batch_size

    assert batch(20000) < batch(24000) == batch(None) == batch(3000)


@pytest.mark.parametrize(
    ("added", "options", "batch"),
    [
        ("resources: {gpus: none}", {}, 1),
        ("", {"mib": None}, 1),
        ("", {"base": FACTS.checkpoint}, 8),
    ],
)
def test_auto_falls_back_to_the_table_and_says_why(added: str, options: dict[str, Any], batch: int):
    made = planned(f"method: lora\ntraining: {{batch_size: auto}}\n{added}", **options)
    assert made.steps.batch_size == batch and made.steps.effective_batch == 64
    assert any("by the table" in note for note in made.notes)


# What a checkpoint says of itself.


def test_a_shape_is_read_from_the_files_and_an_estimate_is_quick(tmp_path: Path):
    folder = large_checkpoint(tmp_path, CONFIG)
    began = time.perf_counter()
    facts = look_at_checkpoint(str(folder), tmp_path)
    looked = time.perf_counter() - began
    assert facts.shape == LARGE.shape and facts.parameters == LARGE.parameters
    began = time.perf_counter()
    planned("method: qlora\ntraining: {batch_size: auto}")
    assert looked + time.perf_counter() - began < 0.5, "0.05 is what it takes where nothing else runs"


def large_checkpoint(folder: Path, config: dict[str, Any], headers: dict[str, Any] | None = None) -> Path:
    """The headers without the weights: a file may have a hole of that size."""
    made = hollow_checkpoint(folder / "base")
    for file in made.glob("*.safetensors"):
        file.unlink()
    (made / "config.json").write_text(json.dumps(config))
    end, placed = 0, {}
    for name, tensor in (headers or tensors()).items():
        count = 2
        for side in tensor["shape"]:
            count *= side
        placed[name] = {**tensor, "data_offsets": [end, end + count]}
        end += count
    text = json.dumps(placed).encode()
    with (made / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return made


@pytest.mark.parametrize(
    ("activation", "gate", "plain"), [("gelu", False, True), ("gelu_new", False, False), ("silu", True, False)]
)
def test_an_mlp_without_a_gate_keeps_less(activation: str, gate: bool, plain: bool):
    there = {name: each for name, each in tensors().items() if gate or "gate_proj" not in name}
    facts = facts_of_tensors({**CONFIG, "hidden_act": activation}, there)
    spec = parse_spec(SPARSE.encode(), source="").spec
    share = Share(batch_size=8, accumulation=4)
    usual, found = (
        estimated(spec, replace(LARGE, shape=each), on_cpu=False, share=share)
        for each in (replace(facts.shape, plain=False), facts.shape)
    )
    assert facts.shape and facts.shape.plain is plain
    assert usual and found and (found.layer < usual.layer) is plain


def test_a_shape_tells_of_joined_gates_and_of_norms_with_a_bias():
    usual = tensors()
    there = {name: each for name, each in usual.items() if "up_proj" not in name}
    joined = {
        name.replace("gate_proj", "gate_up_proj"): {
            **each,
            "shape": [28672, 4096] if "gate_proj" in name else each["shape"],
        }
        for name, each in there.items()
    }
    biased = usual | {f"model.layers.{n}.input_layernorm.bias": {"shape": [4096], "dtype": "BF16"} for n in range(32)}
    wide = usual | {f"model.layers.{n}.self_attn.q_norm.weight": {"shape": [4096], "dtype": "BF16"} for n in range(32)}
    shapes = [facts_of_tensors(CONFIG, each).shape for each in (usual, joined, biased, wide)]
    assert [each and (each.joined, each.layer_norms, each.norms, each.head_norms) for each in shapes] == [
        (False, False, 2, False),
        (True, False, 2, False),
        (False, True, 2, False),
        (False, False, 2, True),
    ]


def test_adapters_sample_in_float32_and_joined_gates_are_added_to_at_once():
    shape = LARGE.shape
    assert shape is not None
    spec = parse_spec(SPARSE.replace("mode: sft", "mode: grpo").encode(), source="").spec
    share = Share(batch_size=8, accumulation=64)
    apart, joined = (
        estimated(spec, replace(LARGE, shape=replace(shape, joined=each)), on_cpu=False, share=share)
        for each in (False, True)
    )
    assert apart and joined and apart.peak == joined.peak == "sampling"
    assert joined.sampling - apart.sampling == 8 * 64 * (1024 - 256) * 14336 * 8


HOSTILE = [
    *({key: value} for key in CONFIG for value in ("many", -1, 0, 10**30, 1e300, None, [], {}, True)),
    {"hidden_size": 8192},
    {"num_hidden_layers": 31},
    {"intermediate_size": 1 << 20},
    {"num_attention_heads": 1 << 20},
    {"text_config": "none"},
    {"text_config": {"hidden_size": "x", "num_hidden_layers": []}},
    {"head_dim": 1 << 23},
    {"num_local_experts": 10**9, "num_experts_per_tok": 10**9},
]


@pytest.mark.parametrize("changed", HOSTILE, ids=str)
def test_what_config_json_says_is_neither_believed_against_the_weights_nor_fatal(changed: dict[str, Any]):
    facts = replace(facts_of_tensors({**CONFIG, **changed}, tensors()), reference="/work/base")
    made = planned("training: {batch_size: 1}\nresources: {memory_check: false}", base=facts)
    assert made.memory and LARGE.parameters
    assert made.memory.total < 64 * _GIB and made.memory.total >= LARGE.parameters * 2


def test_an_unknown_architecture_gives_a_lower_bound_that_says_so():
    facts = replace(facts_of_tensors({"model_type": "new"}, tensors()), reference="/work/base")
    memory = planned("training: {batch_size: 1}", base=facts).memory
    assert memory and memory.lower_bound and memory.layer == 0 and memory.weights == LARGE.parameters * 2
    assert "at least" in refused("method: full", base=facts).message


def test_smaller_moments_are_offered_where_full_fine_tuning_does_not_fit():
    added = "training: {batch_size: 1, max_length: 512}"
    hint = str(refused(f"method: full\n{added}", mib=98304))
    assert "`--set training.optimizer=adamw_8bit`" in hint
    fitting = planned("method: full\ntraining: {batch_size: 1, max_length: 512, optimizer: adamw_8bit}", mib=98304)
    assert fitting.memory is not None
    assert "adamw_8bit" not in str(refused(f"method: full\n{added}", mib=24564))
