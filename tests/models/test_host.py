"""What the host tells of a DIMBA checkpoint from its configuration and the headers of its weights, without torch."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dimba.common.checkpoint import read_checkpoint, weights_refusal
from dimba.common.checkpoint.files import Checkpoint
from dimba.host.checkpoint import facts_of_tensors
from dimba.host.facts import MixerShape, ModelShape
from dimba.plan.activations import Batch, mask
from tests.models.tiny import tiny_dimba


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("dimba")
    tiny_dimba(d_conv=3, expand=3).save_pretrained(made)
    return made


def refused(folder: Path, drop: str = "", add: dict[str, list[int]] | None = None, **config: Any) -> str:
    """The refusal with a tensor dropped, others of these shapes added, and keys of config.json changed."""
    found = read_checkpoint(folder)
    tensors = {name: each for name, each in found.tensors.items() if name != drop}
    tensors |= {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in (add or {}).items()}
    refusal = weights_refusal(Checkpoint(folder, {**found.config, **config}, tensors))
    return refusal.problem if refusal else ""


def test_a_complete_checkpoint_is_accepted(folder: Path):
    assert refused(folder) == ""


def test_an_untied_checkpoint_is_accepted_with_its_head(tmp_path: Path):
    tiny_dimba(tie_word_embeddings=False).save_pretrained(tmp_path)
    assert refused(tmp_path) == ""
    assert "lacks its language model's head" in refused(tmp_path, drop="lm_head.weight")


def test_every_missing_weight_is_named(folder: Path):
    for name in read_checkpoint(folder).tensors:
        assert f"`{name}`" in refused(folder, drop=name)


def test_a_surplus_weight_and_an_untied_head_are_named(folder: Path):
    assert refused(folder, add={"model.extra.weight": [3]}) == "has weights that its architecture lacks: `extra.weight`"
    assert "has a head of its own (`lm_head.weight`)" in refused(folder, add={"lm_head.weight": [97, 64]})


@pytest.mark.parametrize(
    "key", ["vocab_size", "d_model", "d_state", "d_conv", "expand", "headdim", "ffn_dim", "condition_dim", "time_dim"]
)
def test_a_weight_that_contradicts_a_size_is_named_with_its_keys(folder: Path, key: str):
    value = json.loads((folder / "config.json").read_text())[key]
    found = refused(folder, **{key: value * 2})
    assert f"`{key}`" in found
    assert "in config.json make it" in found


def test_a_number_of_layers_that_the_weights_contradict_is_refused(folder: Path):
    assert "has weights of 2 layers, and `num_layers` in config.json is 1" in refused(folder, num_layers=1)
    assert "it has 2 layers, and `num_layers` in config.json is 3" in refused(folder, num_layers=3)


def test_the_shape_for_the_memory_estimate_is_read_from_headers_and_configuration(folder: Path):
    found = read_checkpoint(folder)
    shape = facts_of_tensors(found.config, found.tensors).shape
    assert shape
    assert shape.mixers == MixerShape(inner=192, states=16, heads=6, projected=422, channels=224)
    assert (shape.hidden, shape.layers, shape.vocabulary, shape.intermediate, shape.tied) == (64, 2, 97, 96, True)
    assert facts_of_tensors({**found.config, "num_layers": None}, found.tensors).shape is None


def test_blocks_with_mixers_have_no_mask_over_pairs_of_positions():
    mixers = MixerShape(inner=192, states=16, heads=6, projected=422, channels=224)
    sizes = {"hidden": 64, "layers": 2, "heads": 6, "kv_heads": 6, "head_dim": 32, "intermediate": 96}
    shape = ModelShape(**sizes, vocabulary=97, tied=True, block_parameters=1, mixers=mixers)
    batch = Batch(rows=4, length=1000, scored=1, masked=True)
    assert mask(shape, batch) == 0
    assert mask(replace(shape, mixers=None), batch) == 4 * 1000**2
