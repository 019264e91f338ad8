"""Masked-diffusion models answer in blocks: alike in any batch, up to the end token, by their own options."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dimba.common.errors import BadInput, Location, RunFailed
from dimba.common.inference import END, LENGTH, TEXT, Prompt, Sampling
from dimba.common.trained import TrainedModel
from tests.trainers.masked.bases import CHATS, EIGHT, MASK, make_masked

pytestmark = pytest.mark.slow
KINDS = ("dimba", "llada", "Dream")
WHERE = Location("a prompt")
DRAWN = Sampling(temperature=1.0, max_new_tokens=10, block_length=4, diffusion_steps=2, guidance=0.5)


@pytest.fixture(scope="module", params=KINDS)
def speaker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return speaker_of(make_masked(tmp_path_factory.mktemp("base") / request.param, request.param))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_masked(tmp_path_factory.mktemp("base") / "dimba", "dimba")


def speaker_of(*folders: Path, **values: Any) -> Any:
    from dimba.trainers.inference.loading import load_speakers

    models = [TrainedModel(folder=str(each), trust_remote_code=True, **values).as_json() for each in folders]
    return load_speakers({"models": models}, print)[0]


def prompts(texts: Sequence[str] = tuple(asked for asked, _ in EIGHT[:3])) -> list[Prompt]:
    asked = [({"role": "user", "content": text},) for text in texts]
    return [Prompt(messages=each, number=number) for number, each in enumerate(asked)]


def answers(speaker: Any, sampling: Sampling, size: int) -> list[str]:
    from dimba.trainers.inference.batches import answer_all

    found = answer_all(speaker, prompts(), sampling, size, lambda: False)
    return [each.text for each in sorted(found, key=lambda each: each.number)]


def test_an_answer_depends_on_its_seed_and_row_and_not_on_the_batch(speaker: Any):
    alone = answers(speaker, DRAWN, 1)
    assert answers(speaker, DRAWN, 3) == answers(speaker, DRAWN, 2) == alone
    assert len(set(alone)) == 3
    assert answers(speaker, replace(DRAWN, seed=1), 1) != alone
    assert MASK not in "".join(alone)


def test_a_streamed_answer_comes_in_parts_and_is_that_of_a_batch(speaker: Any):
    parts: list[tuple[str, str]] = []
    sampling = replace(DRAWN, block_length=2)
    encoded = speaker.encode(prompts()[0], WHERE)
    found = speaker.stream(encoded, sampling, lambda kind, text: parts.append((kind, text)), lambda: False)
    assert "".join(text for _, text in parts) == found.text == answers(speaker, sampling, 3)[0]
    assert {kind for kind, _ in parts} == {TEXT} and len(parts) > 1
    assert found.first_token_seconds < found.seconds


def test_what_stands_behind_the_end_token_is_not_spoken(base: Path):
    speaker = speaker_of(base)
    end, letter = speaker.loaded.ends[0], speaker.loaded.tokenizer.encode("a", add_special_tokens=False)[0]
    found = _with_logits(speaker, {2: end}, otherwise=letter)
    assert (found.text, found.finish, found.tokens) == ("aa", END, 3)
    assert _with_logits(speaker, {}, otherwise=letter).finish == LENGTH


def _with_logits(speaker: Any, likeliest: dict[int, int], *, otherwise: int) -> Any:
    """The answer of a model whose likeliest token is the one of its place in the answer, the later the surer."""
    encoded, model = speaker.encode(prompts()[0], WHERE), speaker.loaded.model
    start, original = len(encoded.ids), model.forward

    def forward(input_ids: torch.Tensor, **_: Any) -> Any:
        found = original(input_ids=input_ids)
        found.logits = torch.zeros_like(found.logits)
        for place in range(input_ids.shape[1]):
            found.logits[:, place, likeliest.get(place - start, otherwise)] = 5.0 + place
        return found

    model.forward = forward
    try:
        return next(speaker.answers([encoded], Sampling(max_new_tokens=8), lambda: False))
    finally:
        model.forward = original


def test_flags_of_the_other_family_and_answers_without_a_limit_are_refused(base: Path):
    speaker = speaker_of(base)
    for sampling, flag in ((Sampling(top_p=0.5), "--top-p"), (Sampling(top_k=3), "--top-k")):
        with pytest.raises(BadInput, match="does not sample with it") as refused:
            speaker.require(sampling)
        assert refused.value.key == flag
    with pytest.raises(BadInput, match="at most, not 9,000"):
        speaker.require(Sampling(max_new_tokens=9000))
    speaker.require(DRAWN)


def test_a_model_whose_logits_are_no_numbers_fails(base: Path):
    speaker = speaker_of(base)
    with torch.no_grad():
        speaker.loaded.model.get_output_embeddings().weight.fill_(torch.nan)
    with pytest.raises(RunFailed, match="not numbers"):
        answers(speaker, Sampling(max_new_tokens=2), 3)


def test_an_adapter_answers_with_the_mask_token_that_training_was_given(tmp_path: Path):
    unnamed = make_masked(tmp_path / "base", "llada")
    for name in ("config.json", "tokenizer_config.json"):
        value = json.loads((unnamed / name).read_text())
        (unnamed / name).write_text(json.dumps({key: each for key, each in value.items() if "mask" not in key}))
    with pytest.raises(BadInput, match="names no mask token"):
        speaker_of(unnamed)
    assert speaker_of(unnamed, mask_token=MASK).loaded.model.config.mask_token_id == 300


def test_the_loss_of_a_row_is_the_bound_of_trainings_evaluation(speaker: Any):
    from dimba.common.inference import Scoring
    from dimba.dataset.samples import Sample
    from dimba.trainers.inference.scoring import score_all

    rows = [
        (number, Sample(messages=tuple(each["messages"]), trained=(False, True))) for number, each in enumerate(CHATS)
    ]
    one, several = (
        {each.number: each for each in score_all(speaker, rows, Scoring(batch_size=size), lambda: False)}
        for size in (1, 8)
    )
    assert [one[n].nats for n in range(8)] == pytest.approx([several[n].nats for n in range(8)], rel=1e-4)
    assert all(each.tokens > 0 and not each.error for each in one.values())
    with torch.no_grad():
        head = speaker.loaded.model.get_output_embeddings()
        kept = head.weight.clone()
        head.weight.zero_()  # a uniform model
        [flat] = score_all(speaker, rows[:1], Scoring(), lambda: False)
        head.weight.copy_(kept)
    vocabulary = speaker.loaded.model.config.vocab_size
    assert flat.nats / flat.tokens == pytest.approx(float(torch.tensor(float(vocabulary)).log()), rel=1e-3)


def test_the_likeliest_tokens_are_found_again_in_the_order_in_which_they_were_filled_in(speaker: Any):
    from dimba.trainers.models.masked_diffusion import likeliest, retraced

    loaded = speaker.loaded
    asked = [speaker.encode(each, WHERE).ids for each in prompts()]
    with torch.no_grad():
        found, _ = likeliest(loaded.model, asked, loaded.tokenizer, new_tokens=16, seconds=None)
        assert [retraced(loaded.model, *each) for each in zip(asked, found, strict=True)] == found
        assert retraced(loaded.model, asked[0], found[0][:11]) == found[0][:11], "up to an end token within a block"
        other = [found[0][0] + 1, *found[0][1:]]
        assert retraced(loaded.model, asked[0], other)[0] != other[0]


@pytest.mark.proof
def test_a_merged_export_equals_its_adapter_and_is_loaded_as_its_card_says(base: Path, tmp_path: Path):
    from transformers import AutoModelForMaskedLM

    from dimba.trainers.inference.loading import load_speakers
    from tests.trainers.export.adapted import make_adapter
    from tests.trainers.export.test_merged_export import check, export

    torch.manual_seed(0)
    trained, folder = make_adapter(base, tmp_path / "adapter", size=0.1), tmp_path / "merged"
    proof = export(trained, folder)["proof"]
    assert proof["logits_max_difference"] <= 1e-4 * max(1, proof["logits_scale"])
    assert proof["agreement"] == 1 and check(trained, folder)["proof"]["tensors_equal"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "import dimba.models.dimba" in card and "AutoModelForMaskedLM.from_pretrained" in card
    assert "generate(" not in card and AutoModelForMaskedLM.from_pretrained(folder).config.mask_token_id == 300
    adapted, plain = load_speakers({"models": [trained.as_json(), TrainedModel(folder=str(base)).as_json()]}, print)
    merged = speaker_of(folder)
    sampling = replace(DRAWN, max_new_tokens=12, guidance=None)
    assert plain.as_base and answers(merged, sampling, 3) == answers(adapted, sampling, 3)
    assert answers(plain, sampling, 3) == answers(speaker_of(base), sampling, 3) != answers(adapted, sampling, 3)


@pytest.mark.proof
def test_a_merged_export_of_q_lora_on_a_base_with_own_code_names_the_flag_that_runs_it(tmp_path: Path):
    from tests.trainers.export.adapted import make_adapter
    from tests.trainers.export.test_merged_export import check, export

    base, folder = make_masked(tmp_path / "base", "Dream"), tmp_path / "merged"
    adapter = make_adapter(base, tmp_path / "adapter", "--trust-remote-code", size=0.1)
    trained = replace(adapter, trust_remote_code=True, four_bit=True)
    proof = export(trained, folder)["proof"]
    assert proof["agreement"] == 1 and 0 < proof["quantized_base"]["kl_mean"] < 0.1
    assert check(trained, folder)["proof"]["tensors_equal"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "`dimba chat path/to/this/folder --trust-remote-code`" in card
    assert 'AutoTokenizer.from_pretrained("path/to/this/folder", trust_remote_code=True)' in card
