"""The choice of an attention for packed rows on a GPU: only an exact one, the quickest of these, measured once."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dimba.common.errors import BadInput
from dimba.objectives.sft import SFT, SftOptions
from dimba.trainers.data.collation import Layout, choose_layout
from dimba.trainers.data.packing import collate_packed, collate_padded
from dimba.trainers.data.packing_probe import probe_packing
from dimba.trainers.kernels import attention, timings, varlen
from dimba.trainers.kernels.attending import attending, attention_of, narrowed_windows
from dimba.trainers.kernels.attention import Work, choose_attention, timed_pass
from dimba.trainers.kernels.placement import shallow_copy
from dimba.trainers.kernels.timings import Timings
from tests.conftest import QUESTIONS, write_rows
from tests.trainers import reference_varlen
from tests.trainers.test_packing import LEAKS, LLAMA, SLIDING, tiny
from tests.trainers.test_sft import metrics, run

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
WORK = Work(device=CPU, mixed="no", rows=3, length=12, longest=24)
SOFT_CAPS = {**LLAMA, "head_dim": 8, "sliding_window": 6}
OPTIONS: SftOptions = SFT.parse(
    ["--base-checkpoint", "b", "--dataset", "d", "--output-dir", "o", "--batch-size", "3", "--max-length", "24"]
)


@pytest.fixture(autouse=True)
def _as_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The way of a GPU on the CPU: its kernels replaced, and nothing compiled."""
    monkeypatch.setattr(timings.constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Work, "on_cpu", False)
    monkeypatch.setattr(timings, "_WARM", 0)
    monkeypatch.setattr(timings, "_ROUNDS", 1)
    with reference_varlen.on_cpu(), torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the times that are measured."""

    def take(**seconds: float) -> None:
        monkeypatch.setattr(attention, "candidates", lambda *_: tuple(seconds))
        monkeypatch.setattr(attention, "quickest", lambda *_: Timings(seconds))

    return take


def layout(model: Any, **given: Any) -> Layout:
    return choose_layout(replace(OPTIONS, **given), model, 0, WORK)


def test_the_quickest_exact_attention_is_chosen_and_its_time_is_reported(take: Callable[..., None]):
    model = tiny("Llama", LLAMA)
    take(dimba_varlen=0.002, sdpa=0.004)
    found = layout(model)
    assert found.attention == attention_of(model) == varlen.NAME
    assert found.collate.keywords == {"max_length": 72, "pad_id": 0, "borders": True}
    assert found.summary(mixed="bf16", activations="on").splitlines() == [
        "mixed bf16, rows packed, attention varlen, activation checkpointing on",
        "attention of packed rows: varlen 2 ms, sdpa 4 ms (measured now on this machine)",
    ]


def test_a_mask_is_the_last_resort_and_the_line_has_the_reason(take: Callable[..., None]):
    model = tiny("Llama", {**LLAMA, "attention_dropout": 0.1})
    take(dimba_varlen=0.002, sdpa=0.004)
    found = layout(model)
    assert found.attention == attention_of(model) == "sdpa"
    assert found.collate.keywords == {"max_length": 24, "pad_id": 0, "borders": False}
    lines = found.summary(mixed="bf16", activations="on").splitlines()
    assert "attention sdpa under a mask" in lines[0]
    assert "varlen is out: the model does not train (ValueError: LlamaAttention computes its scores" in lines[1]


def test_an_attention_that_is_wrong_is_never_chosen_however_quick(
    take: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    def wrong(module: Any, query: Any, key: Any, value: Any, mask: Any, **given: Any) -> Any:
        return varlen.attend(module, query * 1.05, key, value, mask, **given)

    for interface in (varlen.AttentionInterface, varlen.AttentionMaskInterface):
        monkeypatch.setitem(interface._global_mapping, "wrong", interface._global_mapping[varlen.NAME])
    monkeypatch.setitem(varlen.AttentionInterface._global_mapping, "wrong", wrong)
    take(wrong=0.001, dimba_varlen=0.002, sdpa=0.004)
    choice = choose_attention(tiny("Llama", LLAMA), WORK)
    assert choice.name == varlen.NAME
    assert "wrong is out: a document has other losses in a packed row" in choice.reason


def test_times_are_measured_once_and_what_does_not_run_is_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention, "candidates", lambda *_: (varlen.NAME, "flex_attention", "sdpa"))
    model = tiny("Llama", LLAMA)
    found = choose_attention(model, WORK)
    assert found.name in {varlen.NAME, "sdpa"} and attention_of(model) == "sdpa"
    assert "measured now" in found.reason and "flex_attention is out: NotImplementedError" in found.reason
    again = choose_attention(model, WORK)
    assert again.name == found.name and "measured earlier" in again.reason
    other = choose_attention(model, replace(WORK, length=24))
    assert "measured now" in other.reason, "documents of another length"


@pytest.mark.parametrize(
    ("family", "shape", "name"),
    [
        ("GptOss", LEAKS["GptOss"], varlen.NAME),  # its own attention finds no documents
        ("Gemma2", SOFT_CAPS, "eager"),
        ("Mistral", SLIDING, varlen.NAME),
        ("Bloom", LEAKS["Bloom"], None),
    ],
)
def test_each_family_gets_an_attention_that_is_right_for_it(
    family: str, shape: dict[str, Any], name: str | None, take: Callable[..., None]
):
    take(dimba_varlen=0.002)
    model = tiny(family, shape)
    before = attention_of(model)
    found = layout(model)
    assert attention_of(model) == (name or before)
    assert found.collate.func is (collate_packed if name else collate_padded)
    if name is None:
        assert "packing is off, rows are padded: " in found.note


def test_a_requested_varlen_is_proved_and_refused_where_it_is_wrong():
    model = tiny("Llama", LLAMA)
    found = layout(model, attention="varlen", batch_size=1)
    assert found.attention == attention_of(model) == varlen.NAME and found.collate.keywords["borders"]
    with pytest.raises(BadInput, match="computes its scores differently"):
        layout(tiny("Gemma2", SOFT_CAPS), attention="varlen")
    with pytest.raises(BadInput, match="--attention varlen needs packed rows"):
        layout(tiny("Llama", LLAMA), attention="varlen", packing="off")


def test_a_timed_pass_computes_the_gradients_of_attention_and_no_others(monkeypatch: pytest.MonkeyPatch):
    model, calls = tiny("Llama", LLAMA), []
    backward = reference_varlen._backward
    monkeypatch.setitem(varlen.AttentionInterface._global_mapping, varlen.NAME, _counting(calls))
    timed_pass(model, varlen.NAME, WORK)()
    assert calls == [True] * LLAMA["num_hidden_layers"] and backward
    assert attention_of(model) == "sdpa" and all(each.grad is None for each in model.parameters())
    assert not attention.ALL_ATTENTION_FUNCTIONS._local_mapping


def _counting(calls: list[bool]) -> Any:
    def attend(module: Any, query: Any, *states: Any, **given: Any) -> Any:
        calls.append(query.requires_grad and torch.is_grad_enabled())
        return varlen.attend(module, query, *states, **given)

    return attend


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("family", "shape"), [("Mistral", SLIDING), ("Gemma2", SOFT_CAPS), ("Gemma3", SLIDING)])
def test_flex_attention_keeps_documents_windows_and_soft_caps(family: str, shape: dict[str, Any]):
    model = tiny(family, shape)
    assert probe_packing(model, "flex_attention").is_exact
    assert attention_of(model) in {"sdpa", "eager"}


def test_a_sharded_job_tries_a_shallow_copy_with_a_layer_of_each_kind():
    shape = {**SLIDING, "num_hidden_layers": 8, "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 2}
    model = tiny("Gemma3", shape)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    copied = shallow_copy(model, CPU)
    assert torch.equal(torch.rand(1), expected)
    assert (len(copied.model.layers), len(model.model.layers)) == (4, 8)
    assert copied.config.layer_types == shape["layer_types"][:4] and copied.dtype == model.dtype
    assert choose_attention(copied, WORK).name is not None


def test_windows_are_narrow_only_while_an_attention_is_tried():
    model = tiny("Mistral", SLIDING)
    with narrowed_windows(model), attending(model, varlen.NAME):
        assert model.config.sliding_window == 4
    assert model.config.sliding_window == 6 and attention_of(model) == "sdpa"


@pytest.mark.proof
def test_training_with_borders_gives_the_losses_of_attention_within_documents(
    tiny_checkpoint: Path, tmp_path: Path, take: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    rows = write_rows(tmp_path / "rows.jsonl", QUESTIONS)
    more = ("--batch-size", "4", "--grad-accumulation-steps", "2", "--max-steps", "3", "--validation-split", "4")
    found = {}
    for name in ("varlen", "documents"):
        monkeypatch.setattr(Work, "on_cpu", name == "documents")
        take(dimba_varlen=0.001)
        output = run(tiny_checkpoint, rows, tmp_path / name, "--device", "cpu", *more)
        assert f"attention {'within documents' if name == 'documents' else name}" in output
        found[name] = [line["loss"] for line in metrics(tmp_path / name) if "loss" in line]
    assert len(found["varlen"]) == 3 and found["varlen"] == pytest.approx(found["documents"], abs=1e-5)
