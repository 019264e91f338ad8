"""What `lora` asks for, against the names and shapes in a base's files: problems, notes and the parameters counted."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from dimba.host.checkpoint import facts_of_tensors
from dimba.host.facts import CheckpointFacts
from dimba.plan.adapter import adapter_notes, adapter_parameters, adapter_problems
from dimba.plan.job import resolved
from dimba.spec import JobSpec

HIDDEN, INNER, VOCABULARY = 8, 16, 50
ATTENTION = {f"self_attn.{name}_proj.weight": [HIDDEN, HIDDEN] for name in "qkvo"}
NORMS = {"input_layernorm.weight": [HIDDEN]}
MLP = {
    **{f"mlp.{name}_proj.weight": [INNER, HIDDEN] for name in ("gate", "up")},
    "mlp.down_proj.weight": [HIDDEN, INNER],
}
OUTSIDE = {"model.embed_tokens.weight": [VOCABULARY, HIDDEN], "lm_head.weight": [VOCABULARY, HIDDEN]}
MIXTRAL = {"block_sparse_moe.gate.weight": [2, HIDDEN]} | {
    f"block_sparse_moe.experts.{number}.{name}.weight": [HIDDEN, INNER] if name == "w2" else [INNER, HIDDEN]
    for number in range(2)
    for name in ("w1", "w2", "w3")
}


def facts(layer: Mapping[str, list[int]], model_type: str = "llama", outside: Mapping[str, Any] = OUTSIDE):
    shapes = {**outside, **{f"model.layers.0.{name}": shape for name, shape in layer.items()}}
    tensors = {name: {"shape": shape, "dtype": "F32"} for name, shape in shapes.items()}
    return facts_of_tensors({"model_type": model_type}, tensors)


LLAMA = facts(ATTENTION | NORMS | MLP)
EXPERTS = facts(ATTENTION | NORMS | MIXTRAL, "mixtral")


def spec(method: str = "lora", **lora: Any) -> JobSpec:
    return JobSpec(
        version=1, mode="sft", base_checkpoint="base", dataset={"path": "d.jsonl"}, method=method, lora={"r": 4, **lora}
    )


def problems(base: CheckpointFacts, **lora: Any) -> list[str]:
    return [f"{each.key}: {each.detail}; {each.hint}" for each in adapter_problems(resolved(spec(**lora)), base)]


@pytest.mark.parametrize(
    ("lora", "says"),
    [
        ({"target_modules": ["q_porj"]}, "no module of the base is named `q_porj`; did you mean `q_proj`?"),
        ({"target_modules": ["lm_head"]}, "`lm_head` gets no adapter: the loss reads its weights themselves"),
        ({"target_modules": r".*(lm_head|q_proj)"}, "`lm_head` gets no adapter"),
        ({"target_modules": ["mlp"]}, "`mlp` holds down_proj, gate_proj, up_proj: name those"),
        ({"target_modules": ["input_layernorm"]}, "`input_layernorm` is no matrix; its matrices: down_proj"),
        ({"target_modules": r".*\.layers\.7\..*"}, "no module of the base is named"),
        ({"target_modules": ["embed_tokens"], "trainable_tokens": ["<|end|>"]}, "cannot have both"),
        ({"modules_to_save": ["head"]}, "lora.modules_to_save: no module of the base is named `head`"),
    ],
)
def test_what_the_base_lacks_or_an_adapter_cannot_cover_is_refused(lora: dict[str, Any], says: str):
    assert len(found := problems(LLAMA, **lora)) == 1 and says in found[0]


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"target_modules": ["q_proj", "v_proj"], "dropout": 0.1, "use_dora": True},
        {"target_modules": r"model\.layers\.0\..*_proj"},
        {"target_modules": ["model.layers.0.self_attn.q_proj"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"modules_to_save": ["layers.0"]},
        {"modules_to_save": ["embed_tokens", "lm_head"], "trainable_tokens": ["<|end|>"]},
    ],
)
def test_what_trains_is_not_refused(lora: dict[str, Any]):
    assert not problems(LLAMA, **lora)


@pytest.mark.parametrize("key", [{"dropout": 0.1}, {"use_dora": True}, {"init": "orthogonal"}])
def test_joined_experts_refuse_what_peft_cannot_do_on_them(key: dict[str, Any]):
    assert "not on joined experts" in problems(EXPERTS, **key)[0]
    assert not problems(EXPERTS, target_modules=["q_proj"], **key)


@pytest.mark.parametrize("named", [["w1", "w2", "w3"], ["gate_up_proj"], ["q_proj", "gate"]])
def test_the_experts_own_names_are_left_to_the_trainer(named: list[str]):
    assert not problems(EXPERTS, target_modules=named)


@pytest.mark.parametrize(
    ("lora", "says"),
    [
        ({"target_modules": ".*(q_proj"}, "is no regular expression"),
        ({"target_modules": ["all-linear", "embed_tokens"]}, "`all-linear` stands alone"),
        ({"init": "orthogonal", "r": 5}, "even rank"),
    ],
)
def test_values_that_no_base_could_use_are_refused_by_the_spec(lora: dict[str, Any], says: str):
    with pytest.raises(ValidationError, match=says):
        spec(**lora)


def parameters(base: CheckpointFacts, **lora: Any) -> int:
    return adapter_parameters(resolved(spec(**lora)), base)


def test_targets_and_saved_modules_are_counted():
    attention, mlp = 4 * 2 * HIDDEN, 3 * (HIDDEN + INNER)
    assert parameters(LLAMA) == 4 * (attention + mlp)
    assert parameters(LLAMA, target_modules=["q_proj", "v_proj"]) == 4 * attention // 2
    assert parameters(LLAMA, target_modules=r".*self_attn.*") == 4 * attention
    assert parameters(LLAMA, modules_to_save=["lm_head"]) == parameters(LLAMA) + VOCABULARY * HIDDEN
    whole = 4 * (attention + mlp - 2 * HIDDEN) + HIDDEN * HIDDEN
    assert parameters(LLAMA, modules_to_save=["q_proj"]) == whole


def test_the_plan_says_which_experts_get_an_adapter():
    assert list(adapter_notes(spec(), EXPERTS)) == ["lora: the routers of the experts get no adapter"]
    other = facts(ATTENTION | {"mlp.experts.gate_up_proj": [2, HIDDEN, 2 * INNER]}, "gpt_oss")
    assert "nor do the experts themselves" in next(adapter_notes(spec(), other))
    assert not list(adapter_notes(spec(), LLAMA))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("all_linear", "did you mean `all-linear`?"),
        ("all", "did you mean `all-linear`?"),
        ("q_proj,v_proj", "several names are a list: `[q_proj, v_proj]`"),
        ("'q_proj', 'v_proj'", "several names are a list: `[q_proj, v_proj]`"),
        ("q_prj", "did you mean `q_proj`?"),
    ],
)
def test_names_written_as_in_other_tools_are_answered_with_ours(name: str, hint: str):
    found = adapter_problems(resolved(spec(target_modules=name)), LLAMA)
    assert [each.hint for each in found] == [hint]


def test_the_names_in_a_hint_are_those_that_can_be_targets():
    (problem,) = adapter_problems(resolved(spec(target_modules=["c_attn"])), LLAMA)
    assert "q_proj" in problem.hint and "norm" not in problem.hint and "layers" not in problem.hint


def test_a_token_that_the_tokenizer_lacks_is_refused_at_plan():
    base = replace(LLAMA, absent_tokens=("<|im_end|>",))
    (problem,) = adapter_problems(resolved(spec(trainable_tokens=["<|im_end|>"])), base)
    assert problem.detail == "the tokenizer has no token `<|im_end|>`"
