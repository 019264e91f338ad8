"""A generation config that the library would refuse is repaired before it costs a run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dimba.trainers.models.generation import is_valid, repair, repaired_generation_config

TOKENS = {"bos_token_id": 1, "eos_token_id": 2}


@pytest.mark.parametrize(
    "flags", [{"temperature": 0.9, "top_p": 0.6}, {"top_k": 5}, {"min_p": 0.1}, {"typical_p": 0.9}]
)
def test_sampling_flags_without_do_sample_mean_sampling(flags: dict[str, float]):
    kept, notes = repair({**TOKENS, **flags})
    assert kept == {**TOKENS, **flags, "do_sample": True} and is_valid(kept)
    assert len(notes) == 1 and "do_sample" in notes[0] and all(name in notes[0] for name in flags)


def test_sampling_flags_beside_do_sample_false_are_dropped():
    kept, [note] = repair({**TOKENS, "do_sample": False, "temperature": 0.9})
    assert kept == {**TOKENS, "do_sample": False} and "`temperature: 0.9` is dropped" in note


def test_a_temperature_of_0_means_greedy():
    assert repair({**TOKENS, "temperature": 0.0, "top_p": 0.9})[0] == TOKENS


@pytest.mark.parametrize(
    "wrong",
    [
        {"early_stopping": "sometimes"},
        {"early_stopping": True},
        {"length_penalty": 2.0},
        {"num_return_sequences": 4},
        {"cache_implementation": "strange"},
        {"compile_config": {"mode": "reduce-overhead"}},
        {"pad_token_id": -1},
        {"output_scores": True},
        {"watermarking_config": {"greenlist_ratio": 3}},
        {"streamer": True},
        {"max_new_tokens": 0},
        {"use_cache": False, "cache_implementation": "static"},
        {"temperature": "warm"},
        {"temperature": float("nan"), "do_sample": True},
        {"forced_eos_token_id": "two"},
        {"decoder_start_token_id": [1.5]},
    ],
    ids=str,
)
def test_what_the_library_does_not_save_is_dropped_and_reported(wrong: dict[str, Any]):
    kept, notes = repair({**TOKENS, **wrong})
    assert is_valid(kept) and kept.items() >= TOKENS.items()
    assert any(name in note for name in wrong for note in notes)


def test_valid_beams_and_unknown_keys_are_kept():
    values = {**TOKENS, "num_beams": 4, "early_stopping": True, "num_return_sequences": 2, "vendor": [1, {"a": 2}]}
    assert repair(values) == (values, []) and is_valid(values)


@pytest.mark.parametrize("content", ["[1]", "{", "null"])
def test_a_generation_config_that_is_no_object_is_replaced_by_the_values_of_config_json(
    content: str, tiny_checkpoint: Path, tmp_path: Path
):
    shutil.copytree(tiny_checkpoint, tmp_path / "base")
    (tmp_path / "base" / "generation_config.json").write_text(content)
    config, notes = repaired_generation_config(str(tmp_path / "base"))
    assert config and config.eos_token_id == 2 and notes == ["generation_config.json holds no JSON object"]


def test_a_valid_generation_config_is_left_to_the_library(tiny_checkpoint: Path):
    assert repaired_generation_config(str(tiny_checkpoint)) == (None, [])


def test_sampling_flags_left_in_config_json_are_repaired(tiny_checkpoint: Path, tmp_path: Path):
    shutil.copytree(tiny_checkpoint, tmp_path / "base")
    (tmp_path / "base" / "generation_config.json").unlink()
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "temperature": 0.9}))
    repaired, notes = repaired_generation_config(str(tmp_path / "base"))
    assert repaired and repaired.do_sample and repaired.temperature == 0.9 and len(notes) == 1


def test_a_folder_that_does_not_exist_is_not_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dimba.trainers.models.generation.cached_file", None)
    assert repaired_generation_config("./nowhere") == (None, [])
