"""Norms and rotations in fewer passes give the numbers of the model's own, or leave the model's own in place."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dimba.trainers.data.packing import collate_padded
from dimba.trainers.kernels import elementwise
from dimba.trainers.kernels.elementwise import replace_elementwise
from tests.trainers.test_packing import GPT2, LENGTHS, LLAMA, NEOX, documents, tiny

pytestmark = pytest.mark.filterwarnings("ignore")
PART = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
HEADS_OF_8 = {**LLAMA, "head_dim": 8}


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restores the functions of transformers' modules."""
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.models.") and hasattr(module, elementwise._ROTATION):
            monkeypatch.setattr(module, elementwise._ROTATION, getattr(module, elementwise._ROTATION))


def loss_and_gradients(model: Any) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    batch = {name: each for name, each in collate_padded(documents(*LENGTHS), pad_id=0).items() if name != "tokens"}
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    return float(loss), [each.grad.clone() for each in model.parameters()]


def replaced(model: Any) -> tuple[int, bool]:
    """(number of replaced norms, whether rotations are replaced)."""
    norms = [module for module in model.modules() if getattr(module.forward, "func", None) is elementwise._norm]
    return len(norms), getattr(sys.modules[type(model).__module__], elementwise._ROTATION, None) is elementwise._rotate


@pytest.mark.parametrize(
    ("family", "shape", "norms", "rotates"),
    [
        ("Llama", LLAMA, 5, True),
        ("Qwen2", LLAMA, 5, True),
        ("Qwen3", HEADS_OF_8, 9, True),
        ("Mistral", HEADS_OF_8, 5, True),
        ("Olmo2", LLAMA, 9, True),
        ("Phi3", LLAMA, 5, True),
        ("Phi3", {**LLAMA, "rope_parameters": PART}, 5, True),  # rotates half of each head only
        ("Gemma2", HEADS_OF_8, 0, True),  # scales by 1 + weight
        ("Glm4", HEADS_OF_8, 9, False),  # rotates neighbours, not halves
        ("Cohere", LLAMA, 0, False),
        ("GPTNeoX", NEOX, 0, True),
        ("GPT2", GPT2, 0, False),
    ],
)
def test_losses_and_gradients_equal_those_of_the_models_own_functions(
    family: str, shape: dict[str, Any], norms: int, rotates: bool
):
    model = tiny(family, shape)
    with torch.no_grad():
        for name, each in model.named_parameters():
            if "norm" in name:  # weights of one would hide a missing product
                each.add_(torch.linspace(-0.3, 0.3, each.numel()).view_as(each))
    loss, gradients = loss_and_gradients(model)
    replace_elementwise(model)
    quick, found = loss_and_gradients(model)
    assert replaced(model) == (norms, rotates)
    assert quick == pytest.approx(loss, abs=1e-6)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, gradients, strict=True))


def test_a_second_model_of_the_same_family_gets_the_same_replacements():
    first, second = tiny("Llama", LLAMA), tiny("Llama", LLAMA)
    replace_elementwise(first)
    replace_elementwise(second)
    assert replaced(first) == replaced(second) == (5, True)


def test_a_frozen_norm_passes_gradients_through():
    model = tiny("Llama", LLAMA)
    replace_elementwise(model)
    for name, each in model.named_parameters():
        each.requires_grad_("norm" not in name)
    batch = {name: each for name, each in collate_padded(documents(*LENGTHS), pad_id=0).items() if name != "tokens"}
    model(**batch).loss.backward()
    assert all((each.grad is None) == ("norm" in name) for name, each in model.named_parameters())


def test_functions_of_another_signature_or_with_nan_are_not_replaced():
    def more(q: Any, k: Any, cos: Any, sin: Any, position_ids: Any = None, unsqueeze_dim: int = 1) -> Any:
        return elementwise._rotate(q, k, cos, sin, unsqueeze_dim)

    def none(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> Any:
        return q * float("nan"), k

    assert not any(map(elementwise._is_this_rotation, (None, more, none)))
    assert not elementwise._is_this_norm(SimpleNamespace(weight=None, forward=lambda states: states))
    half = tiny("Llama", LLAMA).to(torch.bfloat16)
    replace_elementwise(half)
    assert replaced(half)[0] == 0
