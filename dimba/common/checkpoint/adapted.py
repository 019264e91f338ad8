"""Which matrices an adapter covers by default, as far as the names in a checkpoint's files tell."""

from collections.abc import Iterable

EXPERT = ".experts."  # in the name of a tensor
# Families whose joined experts peft 0.21 adapts under `all-linear`, and the names that it takes for those of experts,
# also in layers without any: `_MOE_TARGET_MODULE_MAPPING` of its transformers_weight_conversion.
_MIXTRAL, _QWEN = ("w1", "w2", "w3"), ("gate_proj", "up_proj", "down_proj")
JOINED = {
    **dict.fromkeys(("mixtral", "minimax", "minimax_m2"), _MIXTRAL),
    **dict.fromkeys(
        (
            *("afmoe", "beam", "cohere2_moe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe"),
            *("exaone_moe", "flex_olmo", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "hunyuan_v1_moe"),
            *("longcat_flash", "mellum", "olmoe", "qwen3_moe", "qwen3_next", "qwen3_omni_moe", "solar_open"),
            *("qwen3_omni_moe_text", "qwen3_omni_moe_thinker", "Dots3NoteTextModel", "UnlimitedOcrTextModel"),
        ),
        _QWEN,
    ),
}
_TEXT_PART = "language_model"


def chooses_experts(path: str) -> bool:
    """Whether a module beside experts is a router, or a gate of one, by its name."""
    return is_router(path) or any(part == "gate" or part.endswith("_gate") for part in path.split("."))


def is_router(path: str) -> bool:
    """Whether a module chooses among experts, by its name alone."""
    return "router" in path.split(".") or path.rpartition(".")[2] == "gate"


def adapted_by_default(
    names: Iterable[str], model_type: str, *, not_called: tuple[str, ...] = (), multimodal: bool = False
) -> set[str]:
    """Those of the matrices `names` that an adapter on all linear layers covers.

    None of those that end in `not_called`: the model reads their weights without calling the layer.
    """
    found = list(names)
    if multimodal and any(_TEXT_PART in name for name in found):
        found = [name for name in found if _TEXT_PART in name]
    has_experts = any(EXPERT in name for name in found)
    adapted = {name for name in found if _is_adapted(name, model_type, has_experts=has_experts)}
    return {name for name in adapted if not name.endswith(not_called)}


def _is_adapted(name: str, model_type: str, *, has_experts: bool) -> bool:
    last = name.rpartition(".")[2]
    if EXPERT in name:
        return model_type in JOINED
    return not (is_router(name) or (has_experts and (chooses_experts(name) or last in JOINED.get(model_type, ()))))
