"""DPO: its pairs are SFT's tokens, its gradient is the formula's, and held-out pairs come to be ordered rightly."""

import io
import json
import math
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from dimba.common.contract import EXIT_STOPPED
from dimba.common.errors import Location
from tests.conftest import REPOSITORY, write_rows
from tests.trainers.learning import POLITE, World, endings, logged
from tests.trainers.test_masks import ENDS_THE_CHAT, OPENS_THOUGHT, TEMPLATE, TWO_ENDS
from tests.trainers.test_ranks import start
from tests.weights import largest_difference, saved_rank_count

pytestmark = pytest.mark.slow
PAIRS = [
    {"prompt": f"What is {n} + {n}?", "chosen": f"It is {2 * n}{POLITE}", "rejected": f"It is {2 * n}."}
    for n in range(13)
]
QUICK = ("--batch-size", "2", "--grad-accumulation-steps", "2", "--max-length", "128", "--learning-rate", "1e-3")


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch: pytest.MonkeyPatch, caches: Path) -> Iterator[None]:
    monkeypatch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: caches / "tokens")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", PAIRS)


def run(base: Path, rows: Path, out: Path, *flags: object, status: int = 0) -> str:
    """What the script prints, in this process: importing what trains takes longer than to train."""
    from dimba.objectives.dpo import DPO
    from dimba.trainers.command import run_trainer
    from dimba.trainers.objectives.dpo.train import train

    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        ended = run_trainer(train, DPO.parse(_argv(base, rows, out, *flags)))
    assert ended == status, printed.getvalue()
    return printed.getvalue()


def _argv(base: Path, rows: Path, out: Path, *flags: object) -> list[str]:
    named = {"--base-checkpoint": base, "--dataset": rows, "--output-dir": out}
    return [str(each) for pair in named.items() for each in pair] + [str(each) for each in flags]


def loaded(base: Path, rows: list[dict[str, Any]], *flags: str) -> Any:
    from dimba.objectives.dpo import DPO
    from dimba.trainers.objectives.dpo.pairs import load_pairs

    data = write_rows(base.parent / "rows.jsonl", rows)
    return load_pairs(DPO.parse(_argv(base, data, base.parent / "out", *flags)), lambda _rows: None)


@pytest.fixture
def base(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint with room beside it."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))


# Tokens.


@pytest.mark.parametrize("template", [TEMPLATE, OPENS_THOUGHT, TWO_ENDS, ENDS_THE_CHAT])
def test_both_sides_have_the_tokens_and_the_mask_that_sft_gives_them(template: str, base: Path):
    from dimba.trainers.data.chat import encode

    (base / "chat_template.jinja").write_text(template, encoding="utf-8")
    data = loaded(base, PAIRS)
    assert len(data.train) == 13 and not data.report.problem, data.report.problem
    for number, row in enumerate(PAIRS):
        chosen, rejected = data.train.sides(number)
        for side, answer in ((chosen, row["chosen"]), (rejected, row["rejected"])):
            chat = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": answer}]
            expected = encode(data.tokenizer, chat, Location("here"))
            assert side.input_ids.tolist() == expected.input_ids.tolist()
            assert side.trained.tolist() == expected.trained.tolist()
        texts = [data.tokenizer.decode(side.input_ids[side.trained]) for side in (chosen, rejected)]
        assert all(text.endswith(data.turn_ends[0]) for text in texts), "the end of the turn is trained"


def test_a_batch_holds_the_chosen_sides_first_and_scores_what_carries_loss(base: Path):
    from dimba.trainers.objectives.dpo.batches import as_dataset, collate_pairs

    chat = [{"role": "user", "content": "1?"}]
    turns = [
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "2?"},
        {"role": "assistant", "content": "Two."},
    ]
    data = loaded(base, [{"prompt": chat, "chosen": turns, "rejected": turns[:1]}, PAIRS[0]])
    batch = collate_pairs(list(as_dataset(data.train)), pad_id=data.tokenizer.pad_token_id)
    assert batch["input_ids"].shape[0] == 4
    scored = [
        data.tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    assert scored == ["One.<|end|>Two.<|end|>", f"It is 0{POLITE}<|end|>", "One.<|end|>", "It is 0.<|end|>"]
    assert (batch["attention_mask"].sum(dim=1) == (batch["input_ids"] != data.tokenizer.pad_token_id).sum(dim=1)).all()


SHAPES: dict[str, dict[str, Any]] = {
    "prompt/chosen/rejected": {"prompt": "Q", "chosen": "A", "rejected": "B"},
    "chosen/rejected (transcripts)": {"chosen": "Human: Q\n\nAssistant: A", "rejected": "Human: Q\n\nAssistant: B"},
    "responses A and B": {
        "orig_instruction": "Q", "orig_response_A": "B", "orig_response_B": "A", "orig_score_A": 1, "orig_score_B": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_pair_is_read(name: str, base: Path):
    data = loaded(base, [SHAPES[name]])
    assert data.report.format == name
    decoded = [data.tokenizer.decode(side.input_ids[side.trained]) for side in data.train.sides(0)]
    assert decoded == ["A<|end|>", "B<|end|>"]


def test_scored_responses_to_one_instruction_are_compared(base: Path):
    rows = [
        {"orig_instruction": "Q", "orig_response": text, "orig_score": score}
        for text, score in (("B", 1), ("A", 5), ("C", 3))
    ]
    data = loaded(base, rows)
    assert data.report.format == "scored responses" and len(data.train) == 2
    decoded = {
        tuple(data.tokenizer.decode(side.input_ids[side.trained]) for side in data.train.sides(n)) for n in range(2)
    }
    assert decoded == {("A<|end|>", "B<|end|>"), ("A<|end|>", "C<|end|>")}


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"prompt": "Q", "response": "A"}, (), "no `chosen` and no `rejected`; the columns are `prompt`, `response`"),
        ({"question": "Q", "answer": "A"}, (), "DPO compares two answers"),
        ({"q": "Q", "good": "A", "bad": "B"}, (), "no `chosen` and no `rejected`"),
        ({"q": "Q", "good": "A", "bad": "B"}, ("prompt=q", "chosen=gut"), "no column `gut`"),
    ],
)
def test_rows_without_pairs_are_refused_with_the_columns_to_name(
    row: dict[str, Any], columns: tuple[str, ...], message: str, base: Path
):
    from dimba.common.errors import BadInput

    with pytest.raises(BadInput) as raised:
        loaded(base, [row], *(("--columns", *columns) if columns else ()))
    assert message in raised.value.message
    if not columns:
        assert "`dataset.columns: {prompt: …, chosen: …, rejected: …}`" in raised.value.hint


def test_columns_that_are_named_are_read(base: Path):
    data = loaded(base, [{"q": "Q", "good": "A", "bad": "B"}], "--columns", "prompt=q", "chosen=good", "rejected=bad")
    assert data.report.columns == {"prompt": "q", "chosen": "good", "rejected": "bad"}


def test_skipped_pairs_are_counted_and_too_many_are_a_problem(base: Path):
    many = [{**PAIRS[0], "prompt": f"Q{n}"} for n in range(40)]
    tie = {**SHAPES["responses A and B"], "orig_score_A": 2}
    report = loaded(base, [*many, {"prompt": "Q", "chosen": "A", "rejected": "A "}]).report
    assert "1 of 41 pairs are skipped: both answers are the same" in report.notes and not report.problem
    assert (report.rows, report.examples, report.unusable) == (41, 40, 0)
    assert "compare nothing" in loaded(base, [PAIRS[0], {"prompt": "Q", "chosen": "", "rejected": "A"}]).report.problem
    ties = loaded(base, [SHAPES["responses A and B"], tie, tie]).report
    assert "2 of 3 pairs are skipped: both answers have the same score" in ties.notes and not ties.problem


def test_a_row_that_fails_on_one_side_is_refused_whole(base: Path):
    rows = [PAIRS[0], {"prompt": "Q", "chosen": "A", "rejected": [{"role": "assistant", "content": "\U0010f7d1"}]}]
    data = loaded(base, rows, "--skip-bad-rows")
    assert (data.report.rows, data.report.unusable, data.report.examples) == (2, 1, 1)
    assert len(data.train.store) == 2 and data.report.bad[0].where.endswith("rows.jsonl:2")
    assert "U+10F7D1" in loaded(base, rows).report.problem


# Rows that are too long.

LONG = [{"prompt": f"Q{n}", "chosen": "yes " * 4, "rejected": "no " * (60 if n else 4)} for n in range(8)]


def test_pairs_that_are_too_long_are_refused_cut_or_dropped(base: Path):
    refused = loaded(base, LONG, "--max-length", "32").report
    assert re.search(r"7 pairs with an answer longer than max_length 32: \d+% of the trained tokens", refused.problem)
    assert "--on-long truncate or drop" in refused.hint
    cut = loaded(base, LONG, "--max-length", "32", "--on-long", "truncate")
    assert len(cut.train) == 8 and not cut.report.problem and cut.report.cut_trained_tokens > 0
    assert max(len(side.input_ids) for n in range(8) for side in cut.train.sides(n)) == 32
    dropped = loaded(base, LONG, "--max-length", "32", "--on-long", "drop").report
    assert (dropped.examples, dropped.left_out, dropped.long_rows) == (1, 7, 7) and not dropped.problem
    assert dropped.cut_trained_tokens > cut.report.cut_trained_tokens


def test_a_pair_that_is_cut_to_the_same_on_both_sides_compares_nothing(base: Path):
    rows = [*PAIRS, {"prompt": "Q", "chosen": "word " * 60 + "A", "rejected": "word " * 60 + "B"}]
    report = loaded(base, rows, "--max-length", "48", "--on-long", "truncate").report
    assert (report.examples, report.left_out) == (13, 1)
    assert "no pair compares anything within 8 tokens" in loaded(base, PAIRS, "--max-length", "8").report.problem


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--on-long", "split"), "`split` separates answers from their prompt"),
        (("--attention", "documents"), "`documents` is for packed rows"),
        (("--attention", "varlen"), "`varlen` is for packed rows"),
        (("--loss-type", "sft"), "invalid choice: 'sft'"),
        (("--beta", "0"), "0 is not above zero"),
        (("--on-long", "cut"), "choose from truncate, drop"),
    ],
)
def test_a_flag_that_means_nothing_for_pairs_is_refused_with_the_reason(
    flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
):
    from dimba.objectives.dpo import DPO

    with pytest.raises(SystemExit) as ended:
        DPO.parse([*_argv(Path("b"), Path("d"), Path("o")), *flags])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_pairs_of_one_prompt_are_held_out_together(base: Path):
    rows = [{**PAIRS[n % 4], "rejected": f"No {n}."} for n in range(12)]
    data = loaded(base, rows, "--validation-split", "2")
    assert (len(data.train), len(data.validation)) == (6, 6)
    prompts = [
        {data.tokenizer.decode(side.sides(int(n))[0].input_ids).partition("?")[0] for n in side.numbers}
        for side in (data.train, data.validation)
    ]
    assert [len(each) for each in prompts] == [2, 2] and not prompts[0] & prompts[1]
    again = loaded(base, rows, "--validation-split", "2")
    assert again.validation.numbers.tolist() == data.validation.numbers.tolist() and again.report.cached


def test_the_report_shows_the_chosen_answer_marked_and_the_rejected_one_below(base: Path):
    data = loaded(base, PAIRS)
    parts = data.report.shown[0].parts
    assert [part.text for part in parts if part.trained] == [f"It is 0{POLITE}<|end|>"]
    text = "".join(part.text for part in parts)
    assert text.endswith("rejected: It is 0.<|end|>\n") and text.count("What is 0 + 0?") == 1
    assert data.report.tokens == int(data.train.store.lengths.sum())
    assert f"trained tokens: {data.train.store.trained_counts[::2].sum()} of chosen answers" in " ".join(
        data.report.notes
    )


# Training.


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_the_gradient_is_that_of_a_loss_written_by_hand(loss: str, tiny_checkpoint: Path, pairs: Path, tmp_path: Path):
    trainer = make_trainer(tiny_checkpoint, pairs, tmp_path / "out", "--loss-type", loss, "--beta", "0.3")
    for weight in trainer.ref_model.parameters():
        weight.data += 0.01 * weight.data.sign()
    batch = trainer.data_collator([trainer.train_dataset[n] for n in range(4)])
    trainer.model.train()
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, batch).backward()
    theirs = {name: weight.grad.clone() for name, weight in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    by_hand(trainer, batch, loss, 0.3).backward()
    for name, weight in trainer.model.named_parameters():
        assert (weight.grad - theirs[name]).abs().max() < 1e-5, name
    assert max(float(grad.abs().max()) for grad in theirs.values()) > 1e-3, "nothing was compared"


def make_trainer(base: Path, rows: Path, out: Path, *flags: str) -> Any:
    from dimba.objectives.dpo import DPO
    from dimba.trainers.models.loading import choose_compute, load_model
    from dimba.trainers.objectives.callbacks import StopOnSignal
    from dimba.trainers.objectives.dpo import causal
    from dimba.trainers.objectives.dpo.pairs import load_pairs

    options = DPO.parse(_argv(base, rows, out, *QUICK, *flags))
    pairs = load_pairs(options, lambda _rows: None)
    compute = choose_compute("cpu")
    return causal.make_trainer(options, load_model(options, compute), pairs, compute, StopOnSignal())


def by_hand(trainer: Any, batch: dict[str, Any], loss: str, beta: float) -> Any:
    """Rafailov et al., arXiv:2305.18290, equation 7; for `ipo` Azar et al., arXiv:2310.12036, per token as in TRL."""
    import torch

    def log_probs(model: Any) -> Any:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        tokens = logits.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        return tokens * batch["completion_mask"][:, 1:]

    with torch.no_grad():
        reference = log_probs(trainer.ref_model)
    ratios = (log_probs(trainer.model) - reference).sum(dim=1)
    if loss == "ipo":
        chosen, rejected = (ratios / batch["completion_mask"].sum(dim=1)).chunk(2)
        return ((chosen - rejected - 1 / (2 * beta)) ** 2).mean()
    chosen, rejected = ratios.chunk(2)
    return -torch.nn.functional.logsigmoid(beta * (chosen - rejected)).mean()


@pytest.mark.parametrize("method", [(), ("--use-lora",), ("--use-qlora",)])
def test_a_method_trains_logs_plain_metrics_and_saves(
    method: tuple[str, ...], tiny_checkpoint: Path, pairs: Path, tmp_path: Path
):
    printed = run(tiny_checkpoint, pairs, tmp_path / "out", *QUICK, *method, "--max-steps", 3, "--validation-split", 3)
    assert "step 3/3  loss " in printed and "  margin " in printed and "  accuracy " in printed
    assert "reference: a frozen copy of the base" in printed if not method else "the adapter switched off" in printed
    assert "2 pairs trained on once more to fill the last step of 4" in printed
    assert re.search(
        r"held-out pairs ordered rightly: 50.0% before training, [\d.]+% after \(margin .*, of 3 pairs", printed
    )
    steps = [line for line in logged(tmp_path / "out") if "loss" in line]
    plain = {
        "margin": "rewards/margins",
        "accuracy": "rewards/accuracies",
        "reward_chosen": "rewards/chosen",
        "reward_rejected": "rewards/rejected",
    }
    assert len(steps) == 3 and all(line[ours] == line[theirs] for line in steps for ours, theirs in plain.items())
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6) and steps[0]["margin"] == 0, "its own reference"
    assert steps[-1]["margin"] > 0 and all(line["tokens_per_second"] > 0 for line in steps)
    evaluated = [line for line in logged(tmp_path / "out") if "eval_accuracy" in line]
    assert [evaluated[0][name] for name in ("step", "eval_accuracy", "eval_margin")] == [0, 0.5, 0]
    [saved] = (tmp_path / "out").glob("*.safetensors")
    assert saved.name == ("adapter_model.safetensors" if method else "model.safetensors")
    assert {str(tensor.dtype) for tensor in load_file(saved).values()} == {"torch.float32"}
    assert not list((tmp_path / "out").glob("*.bin")), "a pickle was left behind"


def test_an_evaluation_counts_every_pair_alike(tiny_checkpoint: Path, pairs: Path, tmp_path: Path):
    """Of 5 pairs in batches of 2 and of 5."""
    found = []
    for batch in ("2", "5"):
        out = tmp_path / batch
        flags = (*QUICK, "--batch-size", batch, "--validation-split", "5")
        trainer = make_trainer(tiny_checkpoint, pairs, out, *flags)
        for weight in trainer.ref_model.parameters():
            weight.data += 0.01 * weight.data.sign()
        found.append(trainer.evaluate())
    names = ("eval_loss", "eval_margin", "eval_accuracy", "eval_reward_chosen")
    assert [found[0][name] for name in names] == pytest.approx([found[1][name] for name in names], abs=1e-5)
    assert found[0]["eval_margin"] != 0


@pytest.mark.parametrize("method", [(), ("--use-lora",)])
def test_it_resumes_exactly(method: tuple[str, ...], tiny_checkpoint: Path, pairs: Path, tmp_path: Path):
    flags = (*QUICK, *method, "--max-steps", 4, "--save-steps", 2, "--validation-split", 3)
    run(tiny_checkpoint, pairs, tmp_path / "whole", *flags)
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    printed = run(tiny_checkpoint, pairs, tmp_path / "again", *flags, "--resume-from-checkpoint", checkpoint)
    assert largest_difference(tmp_path / "whole", tmp_path / "again") == 0
    assert "50.0% before training" in printed, "as it was when the run began"
    losses = [
        {line["step"]: line["loss"] for line in logged(tmp_path / name) if "loss" in line}
        for name in ("whole", "again")
    ]
    assert {step: losses[0][step] for step in (3, 4)} == losses[1]


def test_a_run_that_is_stopped_saves_a_complete_checkpoint(
    tiny_checkpoint: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from dimba.common.checkpoints import newest_checkpoint
    from dimba.trainers.objectives.callbacks import StopOnSignal

    monkeypatch.setattr(StopOnSignal, "__init__", lambda self: self.__dict__.update(requested=True, stopped=False))
    printed = run(tiny_checkpoint, pairs, tmp_path / "out", *QUICK, "--max-steps", 3, status=EXIT_STOPPED)
    assert "stopping: saving checkpoint-1" in printed
    assert newest_checkpoint(tmp_path / "out") == tmp_path / "out" / "checkpoint-1"


def test_bad_input_is_status_2_with_a_hint(tiny_checkpoint: Path, pairs: Path, tmp_path: Path):
    out = tmp_path / "out"
    for flags, message in (
        (("--validation-split", "13"), "hold out at least one prompt, and fewer than all"),
        (("--validation-split", "test"), "a file has no split `test`"),
    ):
        printed = run(tiny_checkpoint, pairs, out, *flags, status=2)
        assert message in printed and "hint:" in printed and not out.exists()


@pytest.mark.proof
@pytest.mark.parametrize("method", [(), ("--use-lora",)])
def test_two_processes_train_what_one_does(method: tuple[str, ...], tiny_checkpoint: Path, pairs: Path, tmp_path: Path):
    flags = ["--device", "cpu", *QUICK, *method, "--epochs", "2", "--save-steps", "3", "--max-length", "64"]
    one, two = tmp_path / "1", tmp_path / "2"
    run(tiny_checkpoint, pairs, one, *flags, "--grad-accumulation-steps", "4")
    script = REPOSITORY / "scripts/finetuning/finetune_dpo.py"
    job = start(tmp_path, 2, str(script), *_argv(tiny_checkpoint, pairs, two, *flags, "--grad-accumulation-steps", "2"))
    printed, _ = job.communicate(timeout=300)
    assert job.returncode == 0, printed
    assert saved_rank_count(two) == 2 and printed.count("3 pairs trained on once more to fill the last step of 8") == 1
    assert largest_difference(one, two) < 1e-5
    seen = [
        [(line["num_tokens"], pytest.approx(line["margin"], abs=1e-5)) for line in logged(out)] for out in (one, two)
    ]
    assert seen[0] == seen[1] and len(seen[0]) == 4


# It learns.

_ENDINGS = ("--batch-size", "16", "--grad-accumulation-steps", "1", "--max-length", "64", "--learning-rate", "1e-4")


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory, caches: Path) -> World:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: caches / "tokens")
        return endings(tmp_path_factory.mktemp("endings"), seed=0)


@pytest.mark.proof
def test_held_out_pairs_come_to_be_ordered_rightly(ending: World, tmp_path: Path):
    by_margin, by_likelihood = learnt_order(ending, tmp_path / "out")
    assert by_margin >= 0.2 and by_likelihood >= 0.2


def learnt_order(world: World, out: Path, *flags: str) -> tuple[float, float]:
    """(by how much more held-out pairs are ordered rightly by margin, and by the likelihood of their answers)."""
    rows = [json.loads(line) for line in world.rows.read_text(encoding="utf-8").splitlines()]
    train, held_out = write_rows(out.with_suffix(".jsonl"), rows[:-60]), rows[-60:]
    run(world.policy, train, out, *_ENDINGS, "--max-steps", 40, "--validation-split", 40, *flags)
    evaluated = [line["eval_accuracy"] for line in logged(out) if "eval_accuracy" in line]
    return evaluated[-1] - evaluated[0], ordered(out, held_out) - ordered(world.policy, held_out)


def ordered(policy: Path, rows: list[dict[str, str]]) -> float:
    """The share of pairs whose chosen answer the model gives a higher probability, in plain transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dimba.trainers.data.chat import encode

    tokenizer, model = AutoTokenizer.from_pretrained(policy), AutoModelForCausalLM.from_pretrained(policy)

    def log_prob(asked: str, answer: str) -> float:
        example = encode(
            tokenizer, [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}], "here"
        )
        ids = torch.tensor(example.input_ids)[None].long()
        with torch.no_grad():
            tokens = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[0, :, 0]
        return float(tokens[torch.tensor(example.trained[1:])].sum())

    right = [log_prob(row["prompt"], row["chosen"]) > log_prob(row["prompt"], row["rejected"]) for row in rows]
    return sum(right) / len(right)


def test_rows_of_tokens_are_trained_beside_the_adapter(base: Path, pairs: Path, tmp_path: Path):
    printed = run(
        base, pairs, tmp_path / "out", "--use-lora", "--trainable-tokens", "<|end|>", "--max-steps", 2, *QUICK
    )
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert "learned" in printed and sum("token_adapter" in name for name in saved) == 2


def test_the_best_evaluation_counts_pairs_too(base: Path, pairs: Path, tmp_path: Path):
    flags = ("--use-lora", "--validation-split", 4, "--eval-steps", 1, "--max-steps", 3, "--save-best", *QUICK)
    printed = run(base, pairs, tmp_path / "out", *flags)
    assert re.search(r"the best model is saved, of step [123]: validation loss", printed), printed
