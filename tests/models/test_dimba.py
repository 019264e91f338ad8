"""DIMBA as a model of transformers."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForMaskedLM

from dimba.models.dimba import DimbaConfig, DimbaForMaskedLM
from tests.models.tiny import tiny_config, tiny_dimba

PAD = 0


def rows(count: int = 2, length: int = 21, model: DimbaForMaskedLM | None = None) -> torch.Tensor:
    config = model.config if model else tiny_config()
    ids = torch.randint(1, config.vocab_size - 1, (count, length), generator=torch.Generator().manual_seed(1))
    ids[:, ::3] = config.mask_token_id
    return ids


def test_defaults_are_the_published_nano_of_287_9_million_parameters():
    config = DimbaConfig()
    with torch.device("meta"):
        model = DimbaForMaskedLM(config)
    parts = {name: sum(each.numel() for each in part.parameters()) for name, part in model.model.named_children()}
    projection = sum(each.numel() for each in model.model.conditioning.projection.parameters())
    assert (config.vocab_size, config.mask_token_id, config.tie_word_embeddings) == (49153, 49152, True)
    assert sum(each.numel() for each in model.parameters()) == 287_949_160
    # Its model card counts a denoiser of 258.1 M, embeddings of 28.3 M and a conditioning of 1.6 M.
    conditioning = parts["conditioning"] - projection + parts["prompt_encoder"]
    counted = (parts["layers"] + projection, parts["embed_tokens"], conditioning)
    assert [round(each / 1e6, 1) for each in counted] == [258.1, 28.3, 1.6]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("length", [1, 5, 63, 150])
def test_padding_on_either_side_changes_no_logit(side: str, length: int):
    model = tiny_dimba()
    ids, padding = rows(2, length), torch.full((2, 37), PAD)
    pair = (padding, ids) if side == "left" else (ids, padding)
    mask = torch.cat([(each is ids) * torch.ones_like(each) for each in pair], 1)
    real = slice(37, None) if side == "left" else slice(0, length)
    alone = model(ids, t=torch.tensor([0.4, 0.9])).logits
    padded = model(torch.cat(pair, 1), t=torch.tensor([0.4, 0.9]), attention_mask=mask).logits[:, real]
    assert alone.std() > 1e-3
    assert float((alone - padded).detach().abs().max()) < 1e-5 * float(alone.detach().abs().max())


def test_rows_of_other_lengths_in_a_batch_change_no_logit_of_a_row():
    model = tiny_dimba()
    ids = rows(3, 40)
    mask = torch.ones_like(ids)
    mask[0, 25:], mask[1, :31] = 0, 0
    t = torch.tensor([0.2, 0.5, 0.8])
    together = model(ids, t=t, attention_mask=mask).logits
    for number, row in enumerate(ids):
        alone = model(row[mask[number] == 1][None], t=t[number : number + 1]).logits[0]
        assert torch.allclose(together[number][mask[number] == 1], alone, atol=1e-5)


def test_each_position_depends_on_tokens_of_both_sides():
    model = tiny_dimba()
    ids = rows(1, 30)
    changed = ids.clone()
    changed[0, 15] = (changed[0, 15] + 1) % 90
    difference = (model(ids, t=torch.ones(1)).logits - model(changed, t=torch.ones(1)).logits).abs().amax(-1)[0]
    assert (difference > 0).all()


def test_a_saved_model_loads_with_the_same_logits_bit_for_bit(tmp_path: Path):
    model = tiny_dimba()
    model.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert (tmp_path / "model.safetensors").is_file()
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == again.config.to_dict()
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(model(rows(), t=torch.ones(2)).logits, again(rows(), t=torch.ones(2)).logits)


def test_an_untied_head_is_saved_with_its_bias(tmp_path: Path):
    model = tiny_dimba(tie_word_embeddings=False)
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert again.lm_head.weight is not again.model.embed_tokens.weight
    assert torch.equal(model(rows(), t=torch.ones(2)).logits, again(rows(), t=torch.ones(2)).logits)


def test_a_resized_vocabulary_keeps_head_and_embedding_tied():
    model = tiny_dimba()
    before = model(rows(), t=torch.ones(2)).logits
    model.resize_token_embeddings(110, mean_resizing=False)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.vocab_size == 110
    after = model(rows(), t=torch.ones(2)).logits
    assert after.shape[-1] == 110
    assert torch.allclose(after[..., :97], before, atol=1e-7)


def test_labels_give_the_cross_entropy_of_the_labelled_positions_unshifted():
    model, ids = tiny_dimba(), rows()
    labels = torch.where(ids == model.config.mask_token_id, 7, -100)
    output = model(ids, t=torch.ones(2), labels=labels)
    masked = labels >= 0
    assert torch.allclose(output.loss, F.cross_entropy(output.logits[masked], labels[masked]))


def test_without_t_the_share_of_masked_tokens_that_are_no_padding_counts():
    model, ids = tiny_dimba(), rows(1, 20)
    mask = torch.ones_like(ids)
    mask[:, 15:] = 0
    share = (ids[0, :15] == model.config.mask_token_id).float().mean()[None]
    given = model(ids, t=share, attention_mask=mask).logits
    assert torch.equal(model(ids, attention_mask=mask).logits, given)
    assert not torch.allclose(model(ids, t=torch.ones(1), attention_mask=mask).logits, given)


@pytest.mark.parametrize(
    ("t", "said"), [([0.0, 1.0], "above 0"), ([0.5, 1.5], "at most 1"), ([0.5], "one per row"), (0.5, "one per row")]
)
def test_a_t_out_of_range_or_of_another_shape_is_an_error(t: object, said: str):
    with pytest.raises(ValueError, match=said):
        tiny_dimba()(rows(), t=torch.tensor(t))


def test_embeddings_in_place_of_tokens_give_the_same_logits_and_need_t():
    model, ids, t = tiny_dimba(), rows(), torch.ones(2)
    embedded = model.get_input_embeddings()(ids)
    assert torch.equal(model(inputs_embeds=embedded, t=t).logits, model(ids, t=t).logits)
    with pytest.raises(ValueError, match="t is needed"):
        model(inputs_embeds=embedded)


def test_hidden_states_are_the_inputs_of_each_block_and_of_the_head():
    model = tiny_dimba()
    output = model(rows(), t=torch.ones(2), output_hidden_states=True)
    assert len(output.hidden_states) == 3
    assert torch.equal(model.lm_head(output.hidden_states[-1]), output.logits)
    as_tuple = model(rows(), t=torch.ones(2), return_dict=False)
    assert torch.equal(as_tuple[0], output.logits)


def test_activation_checkpointing_gives_the_same_gradients_for_every_trained_weight():
    gradients = []
    for checkpointed in (False, True):
        model = tiny_dimba().train()
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": False})
        model(rows(), labels=rows()).loss.backward()
        trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        assert all(each.grad is not None and each.grad.any() for each in trained.values())
        gradients.append({name: each.grad for name, each in trained.items()})
    assert all(torch.allclose(gradients[1][name], each, atol=1e-7) for name, each in gradients[0].items())


def test_the_unused_prompt_encoder_stays_frozen_after_loading_and_in_training(tmp_path: Path):
    tiny_dimba().save_pretrained(tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path)
    for trained in (model, model.train()):
        frozen = {name for name, each in trained.named_parameters() if not each.requires_grad}
        assert {name.partition("prompt_encoder.")[0] for name in frozen} == {"model."}
        assert len(frozen) == 4


def test_a_new_model_has_the_initial_values_of_mamba_2_and_blocks_that_change_nothing():
    model = DimbaForMaskedLM(tiny_config())
    mixer = model.model.layers[1].mixer_backward
    assert torch.allclose(mixer.A_log.exp(), torch.arange(1.0, 5.0))
    assert torch.equal(mixer.D, torch.ones(4))
    steps = F.softplus(mixer.dt_bias)
    assert 1e-4 <= steps.min() <= steps.max() <= 0.1001
    states = model(rows(), t=torch.ones(2), output_hidden_states=True).hidden_states
    assert torch.equal(states[0], states[1])
    assert 0.8 < states[0].std() < 1.2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"headdim": 48}, "headdim: 48 does not divide"),
        ({"mask_token_id": 97}, "mask_token_id: 97 is not below vocab_size 97"),
        ({"num_layers": 0}, "num_layers: 0 is not greater than 0"),
        ({"time_dim": 31}, "time_dim: 31 is not even"),
    ],
)
def test_sizes_that_make_no_model_are_refused(changes: dict[str, int], said: str):
    with pytest.raises(Exception, match=said):
        tiny_config(**changes)


def test_without_torch_the_import_names_what_is_missing():
    code = "import sys; sys.modules['torch'] = None\nimport dimba.models.dimba"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: dimba.models.dimba needs torch, which this Python lacks" in run.stderr


def test_a_model_names_what_computes_its_scans():
    assert tiny_dimba().scan_note() == "the scans of the mixers run in PyTorch"
