"""DPO of masked-diffusion bases: estimates of the bound that both models share, and pairs that come to be preferred."""

import io
import json
import math
import shutil
from contextlib import redirect_stderr, redirect_stdout
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dimba.common.errors import BadInput
from dimba.common.inference import Scoring
from dimba.objectives.dpo import DPO
from dimba.objectives.families import CAUSAL, DIMBA
from dimba.trainers.command import run_trainer
from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.inference.scoring import score_all
from dimba.trainers.models.families import checked_family
from dimba.trainers.models.loading import choose_compute, load_model
from dimba.trainers.models.masked_diffusion.answers import Answers, Rows
from dimba.trainers.models.masked_diffusion.estimates import PairDraws, estimated
from dimba.trainers.models.masked_diffusion.forward import logits_of, mask_id
from dimba.trainers.models.masked_diffusion.scoring import add_scoring
from dimba.trainers.objectives.callbacks import StopOnSignal
from dimba.trainers.objectives.dpo import held_out_rows
from dimba.trainers.objectives.dpo.losses import Changes, pair_losses
from dimba.trainers.objectives.dpo.masked_diffusion import make_trainer
from dimba.trainers.objectives.dpo.pairs import load_pairs
from dimba.trainers.objectives.dpo.train import train
from tests.conftest import write_rows
from tests.trainers.masked.bases import EIGHT, make_masked
from tests.trainers.masked.test_masked_answers import speaker_of
from tests.trainers.masked.test_masked_sft import loaded
from tests.trainers.test_sharding import Jobs
from tests.weights import largest_difference, weights_file

pytestmark = pytest.mark.slow
KINDS = ("dimba", "llada", "Dream")
PAIRS = [
    {"prompt": asked, "chosen": f"{answer}, thanks", "rejected": f"{answer}."}
    for asked, answer in [*EIGHT, ("What is ice?", "cold water"), ("What is coal?", "a black stone"), ("Is it?", "no")]
]
BRIEF = ("--max-steps", "4", "--batch-size", "2", "--grad-accumulation-steps", "2", "--learning-rate", "1e-3")
NO = IGNORED


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: make_masked(folder / kind, kind) for kind in KINDS}


@pytest.fixture(autouse=True)
def _own_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: tmp_path / "tokens")


def options(base: Path, folder: Path, *flags: str, rows: list[dict[str, Any]] = PAIRS) -> Any:
    data = write_rows(folder / "data.jsonl", rows)
    named = ["--base-checkpoint", str(base), "--dataset", str(data), "--output-dir", str(folder / "out")]
    return DPO.parse([*named, "--device", "cpu", "--trust-remote-code", "--max-length", "128", *flags])


def run(base: Path, folder: Path, *flags: str, **more: Any) -> tuple[int, str]:
    folder.mkdir(exist_ok=True)
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        status = run_trainer(train, options(base, folder, *flags, **more))
    return status, output.getvalue()


def lines(folder: Path, key: str) -> list[dict[str, float]]:
    written = (folder / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, written) if key in line]


def trainer_of(base: Path, folder: Path, *flags: str, **more: Any) -> Any:
    asked = options(base, folder, *flags, **more)
    data, compute = load_pairs(asked, lambda _rows: None), choose_compute("cpu")
    with redirect_stdout(io.StringIO()):
        return make_trainer(asked, load_model(asked, compute), data, compute, StopOnSignal())


# Estimates.

# A side of two answers, and one of another length.
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [5, 6, 7, 8, 12, 0, 0]])
ATTENDED = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
LABELS = torch.tensor([[NO, NO, 7, 8, NO, 10, 11], [NO, NO, 7, 8, 12, NO, NO]])


def drawn(ids: torch.Tensor, attended: torch.Tensor, labels: torch.Tensor, **how: int) -> tuple[Answers, Any]:
    """The masked rows of one pair, each as often as there are draws."""
    draws = PairDraws(places=range(1), pairs=1, **how)
    rows = Rows(*(each.repeat(draws.draws, 1) for each in (ids, attended, labels)))
    answers = rows.cut(draws.numbers(rows.counts))
    return answers, draws.masks(answers.trained, rows.counts)


def exact(model: Any, ids: list[int], start: int, end: int) -> float:
    """The lower bound on the log-likelihood of the tokens from `start` to `end`, over all sets of masked ones."""
    total = 0.0
    for number in range(1, end - start + 1):
        every = list(combinations(range(start, end), number))
        for places in every:
            row = torch.tensor([ids[:end]])
            wanted, row[0, list(places)] = row[0, list(places)].clone(), mask_id(model)
            logits = logits_of(model, row, None, torch.tensor([number / (end - start)]))[0, list(places)]
            total += float(logits.log_softmax(-1).gather(-1, wanted[:, None]).sum()) / number / len(every)
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_estimates_have_the_exact_bound_as_their_mean(kind: str, bases: dict[str, Path]):
    model = loaded(bases[kind])
    add_scoring(model)
    with torch.no_grad():
        first, second = IDS.tolist()
        expected = [exact(model, first, 2, 4) + exact(model, first, 5, 7), exact(model, second, 2, 5)]
        answers, level = drawn(IDS, ATTENDED, LABELS, seed=0, step=0, draws=1200)
        found = estimated(model, model, answers, level, 1200)
    assert found.tolist() == pytest.approx(expected, rel=2e-3)
    assert abs(expected[0] - expected[1]) > 1


def test_masks_depend_on_seed_step_and_place_alone_and_both_answers_share_them():
    alike, shorter = [NO, *range(3, 13)], [NO, *range(3, 9), *[NO] * 4]
    labels = torch.tensor([alike, alike, alike, shorter])  # both chosen sides, then both rejected ones

    def masks(places: range, **other: int) -> tuple[torch.Tensor, list[int]]:
        draws = PairDraws(**{"seed": 7, "step": 3, "pairs": 2, "draws": 4, **other}, places=places)
        part = labels.view(2, 2, -1)[:, list(places)].flatten(0, 1).repeat(4, 1)
        rows = Rows(part.abs(), torch.ones_like(part), part)
        found = draws.masks(rows.cut(draws.numbers(rows.counts)).trained, rows.counts).noise.masked
        return found.view(4, 2, len(places), -1), draws.tails()  # by draw, side and pair

    complete, tails = masks(range(2))
    assert masks(range(1, 2))[0].equal(complete[:, :, 1:]) and masks(range(1, 2))[1] == tails[1::2]
    assert not masks(range(2), seed=8)[0].equal(complete) and not masks(range(2), step=4)[0].equal(complete)
    assert complete[:, 0, 0].equal(complete[:, 1, 0]) and tails == tails[:2] * 8
    often = complete[:, :, :, 1:7].sum(dim=0)
    assert (often.amax(dim=2) - often.amin(dim=2) <= 1).all(), "the masks of an answer take its tokens in turns"
    assert complete.sum(dim=3)[:, :, 1].tolist() != complete.sum(dim=3)[:, :, 0].tolist()  # of an answer of 6 fewer
    numbers = sorted(complete.sum(dim=3)[:, 0].flatten().tolist())
    assert all(abs(number - (at + 0.5) / 8 * 10) <= 1.5 for at, number in enumerate(numbers)), "spread evenly"


def test_shared_masks_have_a_tenth_of_the_variance_of_masks_apart(bases: dict[str, Path]):
    base, model = loaded(bases["llada"]), loaded(bases["llada"])
    add_scoring(base), add_scoring(model)
    torch.manual_seed(0)
    for weight in model.parameters():
        weight.data += 0.03 * weight.data.std() * torch.randn_like(weight)

    def change(seed: int, *, apart: bool) -> torch.Tensor:
        both = []
        for number, each in enumerate((model, base)):
            answers, level = drawn(IDS, ATTENDED, LABELS, seed=seed, step=number * apart, draws=4)
            both.append(estimated(each, each, answers, level, 4))
        return (both[0] - both[1]).diff()

    with torch.no_grad():
        shared, separate = (torch.stack([change(seed, apart=how) for seed in range(60)]) for how in (False, True))
    assert shared.mean().item() == pytest.approx(separate.mean().item(), abs=0.3)  # of the same mean
    assert 10 * shared.var() < separate.var()


# The loss.


@pytest.mark.parametrize(
    "name", ["sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "apo_zero", "apo_down", "sigmoid_norm"]
)
def test_a_loss_has_the_value_that_trl_gives_it(name: str):
    from collections import defaultdict
    from types import SimpleNamespace

    from trl import DPOTrainer

    torch.manual_seed(1)
    logs, reference = torch.randn(6, 5), torch.randn(6, 5)
    mask = torch.ones(6, 6, dtype=torch.long)
    mask[:, 0] = mask[3:, 4:] = 0
    log_probs = [each * mask[:, 1:] for each in (logs, reference)]
    found = iter(log_probs)
    none = {"entropy": torch.zeros(6, 5), "mean_logits": torch.zeros(6, 5), "is_top1": torch.zeros(6, 5).bool()}
    model = torch.nn.Linear(1, 1)
    model.is_gradient_checkpointing = False
    stub = SimpleNamespace(
        model=model,
        ref_model=lambda **_: SimpleNamespace(log_probs=next(found), **none),
        **{"beta": 0.3, "loss_types": [name], "loss_weights": [1.0], "ld_alpha": None},
        **{"aux_loss_enabled": False, "precompute_ref_logps": False, "use_weighting": False, "_tp_size": 1},
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        f_divergence_type="reverse_kl",
        accelerator=SimpleNamespace(device="cpu", gather_for_metrics=lambda each: each, gather=lambda each: each),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
    )
    batch = {"input_ids": torch.ones(6, 6).long(), "attention_mask": mask, "completion_mask": mask}
    expected = DPOTrainer._compute_loss(stub, stub.ref_model, batch, False)
    changes = (log_probs[0] - log_probs[1]).sum(dim=1).chunk(2)
    assert pair_losses(name, Changes(*changes, *mask.sum(dim=1).chunk(2)), 0.3).mean() == pytest.approx(float(expected))


@pytest.mark.parametrize("method", ["full", "--use-lora"])
def test_the_loss_of_equal_models_is_log_2_whatever_the_masks_and_else_that_of_the_formula(
    method: str, bases: dict[str, Path], tmp_path: Path
):
    flags = ("--mask-draws", "3", "--beta", "0.3", *((method,) if method != "full" else ()))
    trainer = trainer_of(bases["dimba"], tmp_path, *BRIEF, *flags)
    batch = trainer.drawn(trainer.data_collator([trainer.train_dataset[n] for n in range(2)]), 0)
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=2).detach()
    assert loss.equal(torch.tensor(math.log(2)))
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight += 0.05 * torch.randn_like(weight) * weight.requires_grad
    by_hand = -torch.nn.functional.logsigmoid(0.3 * margins_by_hand(trainer, batch, 3)).mean()
    found = trainer.compute_loss(trainer.model, batch, num_items_in_batch=2)
    found.backward()
    assert found.item() == pytest.approx(by_hand.item(), rel=1e-5) and abs(found.item() - math.log(2)) > 1e-3
    assert any(each.grad is not None and each.grad.abs().max() > 1e-4 for each in trainer.model.parameters())


@torch.no_grad()
def margins_by_hand(trainer: Any, batch: dict[str, torch.Tensor], draws: int) -> torch.Tensor:
    def bounds() -> torch.Tensor:
        noised = batch["ids"].masked_fill(batch["masked"], mask_id(trainer.base))
        logits = logits_of(trainer.base, noised, batch["attended"], batch["share"])
        tokens = logits.log_softmax(-1).gather(-1, batch["ids"][..., None])[..., 0] * batch["masked"]
        weights = batch["trained"].sum(dim=1) / batch["masked"].sum(dim=1)  # of one answer a side
        return (tokens.sum(dim=1) * weights).view(draws, 2, -1).mean(dim=0)

    own = bounds()
    if trainer._reference is None:
        with trainer.model.disable_adapter():
            reference = bounds()
    else:
        own_base, trainer.model = trainer.model, trainer._reference
        reference = bounds()
        trainer.model = own_base
    return (own - reference)[0] - (own - reference)[1]


# Runs.


def test_losses_that_estimates_do_not_suit_and_masks_of_causal_models_are_refused(
    bases: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path
):
    for name, why in (("sppo_hard", "would train the estimate's variance too"), ("discopop", "less certain than that")):
        with pytest.raises(BadInput, match=why) as refused:
            checked_family(options(bases["dimba"], tmp_path, "--loss-type", name), DPO)
        assert refused.value.key == "--loss-type" and "use `sigmoid`" in refused.value.hint
        checked_family(options(tiny_checkpoint, tmp_path, "--loss-type", name), DPO)
    with pytest.raises(BadInput, match="in whose rows nothing is masked"):
        checked_family(options(tiny_checkpoint, tmp_path, "--mask-draws", "4"), DPO)


def test_memory_holds_both_sides_with_every_mask_and_those_of_causal_models_once():
    for args, draws in (({}, 8), ({"mask-draws": 3}, 3)):
        terms = DPO.memory(args, False)
        assert DIMBA.memory(terms).sequences == 2 * draws and CAUSAL.memory(terms).sequences == 2


@pytest.mark.proof
@pytest.mark.parametrize(
    ("kind", "method"), [("dimba", "--use-lora"), ("llada", "full"), ("Dream", "--use-qlora")], ids=KINDS
)
def test_a_run_resumes_to_the_last_bit_and_a_longer_one_orders_held_out_pairs_rightly(
    kind: str, method: str, bases: dict[str, Path], tmp_path: Path
):
    steps, size = (16, 8) if method == "full" else (4, 2)
    flags = ("--max-steps", str(steps), "--batch-size", str(size), "--grad-accumulation-steps", "1")
    flags = (*flags, "--validation-split", "3", "--save-steps", str(steps // 2), "--mask-draws", "2")
    flags = (*flags, "--learning-rate", "1e-3", *((method,) if method != "full" else ()))
    status, output = run(bases[kind], tmp_path, *flags)
    assert status == 0, output
    assert "masked diffusion: the trained tokens may be masked" in output and "learned: " in output
    assert f"reference: {'a frozen copy' if method == 'full' else 'the base, the adapter switched off'}" in output
    first, *_, last = lines(tmp_path, "eval_margin")
    assert (first["eval_margin"], first["eval_accuracy"]) == (0, 0.5)
    assert first["eval_loss"] == pytest.approx(math.log(2)) and last["eval_margin"] != 0
    out = tmp_path / "out"
    if method == "full":
        assert last["eval_margin"] > 0.1 and last["eval_accuracy"] == 1 and last["eval_loss"] < math.log(2), last
        found = margin_of_eval(out, bases[kind], options(bases[kind], tmp_path, *flags))
        assert last["eval_margin"] == pytest.approx(0.1 * found, abs=1e-5)
    complete = load_file(weights_file(out))
    for file in [*out.glob("*.*"), out / f"checkpoint-{steps}"]:
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    status, output = run(bases[kind], tmp_path, *flags, "--resume-from-checkpoint", str(out))
    assert status == 0, output
    again = load_file(weights_file(out))
    assert all(again[each].equal(complete[each]) for each in complete)
    assert lines(tmp_path, "eval_margin")[-1]["eval_margin"] == last["eval_margin"]


def margin_of_eval(tuned: Path, base: Path, asked: Any) -> float:
    """By how many nats more than the base a model prefers the chosen answers held out, as `dimba eval` scores rows."""
    both = [sides for _, sides in held_out_rows(asked, lambda _rows: None).rows]
    rows = list(enumerate(each for sides in both for each in sides))

    def margins(folder: Path) -> float:
        scored = score_all(speaker_of(folder), rows, Scoring(max_length=128), lambda: False)
        nats = {each.number: each.nats for each in scored}
        return sum(nats[2 * pair + 1] - nats[2 * pair] for pair in range(len(both))) / len(both)

    return margins(tuned) - margins(base)


def test_one_batch_and_several_of_a_step_train_the_same_weights(bases: dict[str, Path], tmp_path: Path):
    shapes = {"one": ("8", "1"), "several": ("2", "4")}
    for name, (size, accumulation) in shapes.items():
        flags = (
            "--batch-size",
            size,
            "--grad-accumulation-steps",
            accumulation,
            "--max-steps",
            "2",
            "--mask-draws",
            "2",
        )
        status, output = run(bases["llada"], tmp_path / name, *flags, "--validation-split", "3", "--warmup", "0")
        assert status == 0, output
    assert largest_difference(*(tmp_path / name / "out" for name in shapes)) < 1e-6
    for key in ("loss", "margin", "eval_loss", "eval_margin", "num_tokens"):
        one, several = ([line[key] for line in lines(tmp_path / name, key)] for name in shapes)
        assert one == pytest.approx(several, abs=1e-5)


@pytest.mark.proof
@pytest.mark.parametrize(("kind", "sharded"), [("dimba", False), ("llada", True)], ids=["DDP", "FSDP2"])
def test_two_processes_train_the_same_weights_as_one(kind: str, sharded: bool, bases: dict[str, Path], tmp_path: Path):
    method = () if sharded else ("--use-lora",)
    flags = ("--batch-size", "2", "--max-steps", "3", "--mask-draws", "2", "--validation-split", "3", *method)
    flags = (*flags, "--learning-rate", "1e-4", "--warmup", "0")
    status, output = run(bases[kind], tmp_path / "one", *flags, "--grad-accumulation-steps", "2")
    assert status == 0, output
    write_rows(tmp_path / "data.jsonl", PAIRS)
    flags = (*flags, "--trust-remote-code", "--max-length", "128", "--grad-accumulation-steps", "1")
    Jobs(tmp_path).train(bases[kind], "two", *flags, mode="dpo", sharded=sharded)
    assert largest_difference(tmp_path / "one" / "out", tmp_path / "two") < 1e-6
    two = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    for key in ("loss", "margin", "eval_loss", "eval_margin", "eval_accuracy", "num_tokens"):
        found = [line[key] for line in lines(tmp_path / "one", key)]
        assert found and found == pytest.approx([line[key] for line in two if key in line], abs=1e-5), key
