"""Activation checkpointing of some layers, or from host memory, changes neither losses nor gradients."""

from typing import Any

import pytest

from dimba.options.checkpointing import ALL, NONE, OFFLOADED, Checkpointing

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

SOME = Checkpointing(layers=2)
WAYS = (SOME, ALL, OFFLOADED)
LAYERS = 4


def made(family: str, method: str) -> tuple[Any, Any]:
    """(a random model of four layers, with an adapter for `lora`; its base)."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tests.families import tiny_config

    config = tiny_config(family, 64)
    config.num_hidden_layers = LAYERS
    if hasattr(config, "layer_types"):
        config.layer_types = ["full_attention"] * LAYERS
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config)
    adapter = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    return (base if method == "full" else get_peft_model(base, adapter)), base


def step(family: str, method: str, chosen: Checkpointing) -> tuple[Any, dict[str, Any], list[int]]:
    """(the loss of a forward and backward pass, the gradients by name, how often each layer ran)."""
    from dimba.trainers.models.recompute import LayerCheckpointing

    model, base = made(family, method)
    layers = LayerCheckpointing(base, chosen)
    if chosen != NONE:
        model.activation_checkpointing_enable()
    runs = _counted(layers)
    model.train()
    ids = torch.arange(24).reshape(2, 12) % 61 + 3
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: each.grad for name, each in model.named_parameters() if each.requires_grad}, runs


def _counted(layers: Any) -> list[int]:
    """How often the first part of each layer has run, which a recomputed layer runs twice."""
    runs = [0] * len(layers.layers)

    def count(number: int) -> Any:
        def hook(*_: Any) -> None:
            runs[number] += 1

        return hook

    for number, layer in enumerate(layers.layers):
        next(iter(layer.children())).register_forward_pre_hook(count(number))
    return runs


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "qwen3_moe"])
def test_every_way_has_the_loss_and_the_gradients_of_kept_activations(family: str, method: str):
    loss, gradients, runs = step(family, method, NONE)
    assert runs == [1] * LAYERS and gradients
    for chosen in WAYS:
        other, found, again = step(family, method, chosen)
        assert again == [2] * chosen.count(LAYERS) + [1] * (LAYERS - chosen.count(LAYERS))
        assert abs(other - loss) < 1e-6
        assert all(torch.allclose(found[name], gradients[name], atol=1e-6) for name in gradients)


def test_inputs_of_layers_wait_in_pinned_memory_and_nothing_else(monkeypatch: pytest.MonkeyPatch):
    from dimba.trainers.models import recompute

    packed: list[tuple[int, ...]] = []

    def host(*, pin_memory: bool) -> Any:
        assert pin_memory
        keep: Any = lambda tensor: packed.append(tuple(tensor.shape)) or tensor  # noqa: E731
        return torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)

    monkeypatch.setattr(recompute, "save_on_cpu", host)
    step("llama", "lora", OFFLOADED)
    assert [shape for shape in packed if len(shape) > 1] == [(2, 12, 64)] * LAYERS


@pytest.mark.parametrize("chosen", [SOME, OFFLOADED])
def test_the_choice_outlives_trl_turning_checkpointing_off_and_on(chosen: Checkpointing):
    from trl.models.utils import disable_gradient_checkpointing

    from dimba.trainers.models.recompute import LayerCheckpointing, checkpoint_in_host_memory

    model, base = made("llama", "lora")
    layers = LayerCheckpointing(base, chosen)
    model.activation_checkpointing_enable()
    model.train()
    with torch.no_grad(), disable_gradient_checkpointing(model):
        model(input_ids=torch.ones(1, 4).long())
        assert not base.is_activation_checkpointing
    model(input_ids=torch.ones(1, 4).long(), use_cache=False)
    on = [layer.gradient_checkpointing for layer in layers.layers]
    assert on == [True] * chosen.count(LAYERS) + [False] * (LAYERS - chosen.count(LAYERS))
    functions = {layer._gradient_checkpointing_func for layer in layers.layers}
    assert (functions == {checkpoint_in_host_memory}) == chosen.offload


def test_a_model_that_checkpoints_in_one_piece_recomputes_all_and_the_words_report_it():
    from dimba.trainers.models.recompute import LayerCheckpointing

    class InOnePiece(torch.nn.Module):
        gradient_checkpointing = True

        def get_decoder(self) -> None:
            return None

    model: Any = InOnePiece()
    assert LayerCheckpointing(model, SOME).words == "on" and LayerCheckpointing(model, NONE).words == "off"
    assert (
        LayerCheckpointing(model, OFFLOADED).words == "on" and not LayerCheckpointing(model, OFFLOADED).chosen.offload
    )


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (NONE, "off"),
        (SOME, "2 of 4 layers"),
        (ALL, "all 4 layers"),
        (OFFLOADED, "all 4 layers, their inputs in host memory"),
        (Checkpointing(layers=9), "all 4 layers"),
    ],
)
def test_the_words_count_the_layers(chosen: Checkpointing, words: str):
    from dimba.trainers.models.recompute import LayerCheckpointing

    assert LayerCheckpointing(made("llama", "full")[1], chosen).words == words
