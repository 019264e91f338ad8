"""`dimba convert`, on synthetic checkpoints of the layout that the original publishes."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM, AutoTokenizer, Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

import dimba.models.dimba  # noqa: F401  # registers the classes
from dimba.cli import main
from dimba.common.errors import BadInput
from dimba.trainers.convert.run import convert
from dimba.trainers.tiny import make_tokenizer
from tests.models.original import HEADS, TIME, WAVES, original, saved, shapes


def converted(folder: Path, checkpoint: dict[str, Any], tokenizer: Path | None = None, **how: Any) -> dict[str, Any]:
    (folder / "out").mkdir()
    return convert(saved(folder / "a.pt", checkpoint, **how), folder / "out", tokenizer)


def logits_of(checkpoint: dict[str, Any], ids: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """What the original computes, written down from the layout: nothing of `dimba.models` is used."""
    weights, config = checkpoint["model_state_dict"], checkpoint["config"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def mixed(x: torch.Tensor, prefix: str) -> torch.Tensor:
        mixer = Mamba2Mixer(
            Mamba2Config(
                hidden_size=config["d_model"], num_heads=HEADS, head_dim=2 * config["d_model"] // HEADS, n_groups=1,
                state_size=config["d_state"], num_hidden_layers=1, layer_norm_epsilon=1e-5,
            ),
            0,
        )  # fmt: skip
        inside = f"{prefix}."
        mixer.load_state_dict({k.removeprefix(inside): v for k, v in weights.items() if k.startswith(inside)})
        return mixer(x)

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], weights[name], 1e-6)

    level = (t * (config["num_diffusion_steps"] - 1)).round().long()
    times = linear(
        F.silu(linear(weights["timestep_embed.position_encoding"][level], "timestep_embed.mlp.0")),
        "timestep_embed.mlp.2",
    )
    condition = weights["null_cond"] + linear(times, "denoiser.time_proj")
    x = weights["_latent_scale"] * weights["token_embed.embedding.weight"][ids]
    for number in range(config["num_denoiser_layers"]):
        block = f"denoiser.blocks.{number}"
        numbers = linear(F.silu(condition), f"denoiser.conditioning.{number}.modulation.1")[:, None].chunk(6, -1)
        h = normed(x, f"{block}.norm.weight") * (1 + numbers[0]) + numbers[1]
        x = x + numbers[2] * (mixed(h, f"{block}.mamba_fwd") + mixed(h.flip(1), f"{block}.mamba_bwd").flip(1))
        h = normed(x, f"{block}.norm2.weight") * (1 + numbers[3]) + numbers[4]
        gated = F.silu(linear(h, f"{block}.ffn.gate_proj")) * linear(h, f"{block}.ffn.up_proj")
        x = x + numbers[5] * linear(gated, f"{block}.ffn.down_proj")
    x = x / weights["_latent_scale"]
    if config["use_weight_tying"]:
        return x @ weights["token_embed.embedding.weight"].T
    return linear(x, "output_head.projection")


@pytest.mark.parametrize("tied", [True, False])
def test_a_converted_model_computes_what_the_original_does(tmp_path: Path, tied: bool):
    checkpoint = original(use_weight_tying=tied)
    found = converted(tmp_path, checkpoint)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    ids, t = torch.randint(0, 300, (3, 50)), torch.tensor([0.05, 0.5, 1.0])
    wanted = logits_of(checkpoint, ids, t)
    assert wanted.std() > 0.05
    assert torch.allclose(model(ids, t=t).logits, wanted, atol=1e-4 * float(wanted.detach().abs().max()))
    assert (found["tied"], found["mask_token_id"], found["dtype"]) == (tied, 300, "float32")
    assert found["parameters"] == sum(each.numel() for each in model.parameters())
    assert all(name.startswith(("_latent", "timestep", "noise_schedule.")) for name in found["left_out"])


def test_a_file_of_bfloat16_as_published_stays_bfloat16_with_every_value(tmp_path: Path):
    checkpoint = original()
    weights = checkpoint["model_state_dict"]
    weights.update({name: each.bfloat16() for name, each in weights.items()})
    assert converted(tmp_path, checkpoint)["dtype"] == "bfloat16"
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert torch.equal(model.model.layers[1].mixer_backward.A_log, weights["denoiser.blocks.1.mamba_bwd.A_log"])
    assert model.config.dtype == torch.bfloat16


def test_a_file_of_an_old_torch_converts_too(tmp_path: Path):
    assert converted(tmp_path, original(), _use_new_zipfile_serialization=False)["tied"]


@pytest.mark.parametrize("wrapped", ["module.{}", "_orig_mod.{}", "module._orig_mod.{}", "denoiser._orig_mod"])
def test_names_that_ddp_or_compile_has_wrapped_convert_to_the_same_model(tmp_path: Path, wrapped: str):
    plain, checkpoint = original(), original()
    weights = checkpoint["model_state_dict"]
    inside = {name: name.replace("denoiser.", f"{wrapped}.") for name in weights}
    names = {name: wrapped.format(name) for name in weights} if "{}" in wrapped else inside
    checkpoint["model_state_dict"] = {names[name]: each for name, each in weights.items()}
    converted(tmp_path, checkpoint)
    found = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").state_dict()
    assert torch.equal(found["model.embed_tokens.weight"], plain["model_state_dict"]["token_embed.embedding.weight"])
    assert torch.equal(
        found["model.layers.1.norm2.weight"], plain["model_state_dict"]["denoiser.blocks.1.norm2.weight"]
    )


def test_the_tokenizer_gets_the_mask_token_behind_its_last(tmp_path: Path):
    tokenizer = make_tokenizer(["a tale of two seas"], size=300)
    tokenizer.save_pretrained(tmp_path / "words")
    assert len(tokenizer) < 300
    size = len(tokenizer) + 1
    assert converted(tmp_path, original(vocab_size=size), tmp_path / "words")["tokenizer"]
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (again.mask_token, again.mask_token_id) == ("[MASK]", size - 1)
    assert (config["eos_token_id"], config["pad_token_id"]) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_a_tokenizer_of_another_size_is_refused(tmp_path: Path):
    make_tokenizer(["a"], size=300).save_pretrained(tmp_path / "words")
    with pytest.raises(BadInput, match=r"has 262 tokens, and the model 301 with 300 as its mask"):
        converted(tmp_path, original(), tmp_path / "words")


def test_a_tokenizer_that_has_a_word_where_the_model_has_its_mask_is_refused(tmp_path: Path):
    make_tokenizer(["a"], size=300).save_pretrained(tmp_path / "words")
    with pytest.raises(BadInput, match=r"has an ordinary token, `.+`, at 70, where the model has its mask"):
        converted(tmp_path, {**original(), "mask_id": 70}, tmp_path / "words")


def test_a_tokenizer_that_has_a_mask_token_of_its_own_keeps_its_name(tmp_path: Path):
    tokenizer = make_tokenizer(["a"], size=300)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|mdm_mask|>", "<|other|>"]})
    tokenizer.save_pretrained(tmp_path / "words")
    converted(tmp_path, {**original(), "mask_id": len(tokenizer) - 2}, tmp_path / "words")
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (again.mask_token, again.mask_token_id) == ("<|mdm_mask|>", len(tokenizer) - 2)


Change = Callable[[dict[str, Any]], object]
REFUSED: dict[str, tuple[Change, str]] = {
    "latent": (lambda c: c["config"].update(latent_diffusion=True), r"latent kind \(`latent_diffusion: True`\)"),
    "v": (lambda c: c["config"].update(prediction_type="v"), r"continuous-latent kind \(`prediction_type: v`\)"),
    "no mask": (lambda c: c.pop("mask_id"), r"lacks `mask_id`, .* as the continuous-latent kind"),
    "one way": (lambda c: c["config"].update(bidirectional=False), r"another architecture \(`bidirectional: False`\)"),
    "mask": (lambda c: c.update(mask_id=301), r"`mask_id: 301`, which is no token of 301"),
    "no config": (lambda c: c.pop("config"), r"lacks `config`; it has `mask_id`, `model_state_dict`"),
    "no sizes": (lambda c: [c["config"].pop(k) for k in ("d_state", "expand")], r"without `d_state`, `expand`"),
    "word": (lambda c: c["config"].update(d_model="big"), r"`d_model: big` in its `config`, which is no whole number"),
    "tied head": (
        lambda c: c["model_state_dict"].update({"output_head.projection.weight": torch.ones(301, 64)}),
        r"says `use_weight_tying: True`, and has a head of its own \(`output_head.projection.weight`\)",
    ),
    "other copy": (
        lambda c: c["model_state_dict"].update({"output_head.embedding_weight": torch.ones(301, 64)}),
        r"`output_head.embedding_weight` is not its embedding",
    ),
    "no head": (lambda c: c["config"].update(use_weight_tying=False), r"False`, and has no head of its own"),
    "missing": (lambda c: c["model_state_dict"].pop("null_cond"), r"lacks `null_cond`\n"),
    "surplus": (lambda c: c["model_state_dict"].update(extra=torch.ones(1)), r"has `extra` too many\n"),
    "both": (
        lambda c: c["model_state_dict"].update(extra=c["model_state_dict"].pop("denoiser.blocks.1.mamba_bwd.D")),
        r"lacks `denoiser.blocks.1.mamba_bwd.D`, and has `extra` too many",
    ),
    "other names": (
        lambda c: c.update(model_state_dict={f"net.{name}": each for name, each in c["model_state_dict"].items()}),
        r"no tensor with a name of the published layout: `net.null_cond`, .* … in place of `token_embed",
    ),
    "twice": (
        lambda c: c["model_state_dict"].update({"module.null_cond": torch.ones(48)}),
        r"has `null_cond` with and without a wrapper's name",
    ),
    "layers": (
        lambda c: c["config"].update(num_denoiser_layers=3),
        r"lacks `denoiser.blocks.2.norm.weight`.*, `denoiser.conditioning.2.modulation.1.bias`\n",
    ),
    "shape": (
        lambda c: c["config"].update(ffn_hidden=100),
        r"has `denoiser.blocks.0.ffn.gate_proj.weight` of 96×64, and its `config` makes it 100×64",
    ),
    "heads": (
        lambda c: c["model_state_dict"].update({"denoiser.blocks.0.mamba_fwd.dt_bias": torch.ones(7)}),
        r"has 7 heads in a mixer, which do not divide",
    ),
    "waves": (
        lambda c: c["model_state_dict"].update({"timestep_embed.position_encoding": torch.ones(100, WAVES)}),
        r"are not the sinusoids of 100 steps of t",
    ),
    "nan": (
        lambda c: c["model_state_dict"].update({"timestep_embed.mlp.2.bias": torch.full((TIME,), float("nan"))}),
        r"values in `timestep_embed.mlp.2.bias` that are no finite numbers",
    ),
    "scale": (
        lambda c: (c["model_state_dict"].pop("_latent_scale"), c["config"].pop("latent_scale")),
        r"lacks `_latent_scale`",
    ),
    "no tensor": (lambda c: c["model_state_dict"].update(null_cond=3.0), r"no tensor under `null_cond`"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_checkpoint_that_is_not_of_the_published_layout_is_refused_with_the_reason(tmp_path: Path, case: str):
    change, said = REFUSED[case]
    checkpoint = original()
    change(checkpoint)
    with pytest.raises(BadInput, match=said) as refused:
        converted(tmp_path, checkpoint)
    assert refused.value.file == str(tmp_path / "a.pt")
    assert refused.value.hint
    assert not any((tmp_path / "out").iterdir())


def test_every_missing_name_is_an_error(tmp_path: Path):
    for number, name in enumerate(shapes(original()["config"])):
        if name.endswith(("0.mamba_fwd.dt_bias", "timestep_embed.mlp.0.weight")) or number % 4 == 0:
            checkpoint = original()
            checkpoint["model_state_dict"].pop(name)
            with pytest.raises(BadInput, match=rf"lacks `{name}`"):
                convert(saved(tmp_path / "a.pt", checkpoint), tmp_path, None)


class Dangerous:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {os.environ['BAIT']}",)


def test_a_pickle_that_would_run_code_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BAIT", str(tmp_path / "bait"))
    for how in ({}, {"_use_new_zipfile_serialization": False}):
        with pytest.raises(BadInput, match=r"names `posix.system`, which could run code: it was not loaded"):
            convert(saved(tmp_path / "a.pt", {**original(), "more": Dangerous()}, **how), tmp_path, None)
    assert not (tmp_path / "bait").exists()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("text", "is no file that torch saved"),
        ("empty", "is no file that torch saved"),
        ("zip", "is cut short or damaged: its zip archive has no end"),
        ("photos", "is a zip archive without a checkpoint of torch: it holds `sea.jpg`"),
        ("cut", "is cut short or damaged"),
        ("cut old", "is no file that torch saved, or it is damaged"),
        ("list", "holds a list"),
        ("weights", "holds tensors alone: sizes and the mask token are not known without `config`"),
    ],
)
def test_what_is_no_complete_file_of_torch_is_refused(tmp_path: Path, kind: str, says: str):
    file = saved(tmp_path / "a.pt", original(), _use_new_zipfile_serialization=kind != "cut old")
    content = {"text": b"hello", "empty": b"", "zip": b"PK\x03\x04" + bytes(99)}.get(kind, file.read_bytes()[:100_000])
    file.write_bytes(content)
    if kind in ("list", "weights"):
        saved(file, [1, 2] if kind == "list" else original()["model_state_dict"])  # type: ignore[arg-type]
    if kind == "photos":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("sea.jpg", b"")
    with pytest.raises(BadInput) as refused:
        convert(file, tmp_path, None)
    assert refused.value.cause.startswith(says)


@pytest.mark.proof
def test_the_command_writes_a_folder_that_others_may_read_and_leaves_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = saved(tmp_path / "a.pt", original())
    assert main(["convert", str(file), str(tmp_path / "new" / "out"), "--runner", "process", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["path"], found["mask_token_id"]) == (str(tmp_path / "new" / "out"), 300)
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["out"]
    modes = {each.name: each.stat().st_mode & 0o777 for each in (tmp_path / "new" / "out").iterdir()}
    assert modes == {"config.json": 0o644, "model.safetensors": 0o644}


@pytest.mark.proof
def test_the_command_refuses_a_continuous_checkpoint_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file, out = saved(tmp_path / "a.pt", original(latent_diffusion=True)), tmp_path / "new" / "out"
    assert main(["convert", str(file), str(out), "--runner", "process"]) == 2
    said = capsys.readouterr().err
    assert "is of the continuous-latent kind" in " ".join(said.split())
    assert "hint:" in said
    assert not out.parent.exists()


def test_the_command_refuses_places_that_it_cannot_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file, out, used = tmp_path / "a.pt", tmp_path / "out", tmp_path / "used"
    file.write_bytes(b"PK")
    used.mkdir()
    (used / "notes.txt").touch()
    cases = {
        ("b.pt", "out"): "b.pt: does not exist",
        ("used", "out"): "used: is a folder",
        ("a.pt", "used"): "used: OUT: is used already",
        ("a.pt", "a.pt"): "a.pt: OUT: is used already",
        ("a.pt", "out", "--tokenizer", str(tmp_path / "none")): f"--tokenizer: {tmp_path / 'none'} is no folder",
    }
    for (first, second, *flags), words in cases.items():
        assert main(["convert", str(tmp_path / first), str(tmp_path / second), *flags]) == 2
        assert words in " ".join(capsys.readouterr().err.replace("\n", "").split())
    assert not out.exists()
    assert [each.name for each in used.iterdir()] == ["notes.txt"]
