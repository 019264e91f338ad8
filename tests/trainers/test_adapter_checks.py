"""What peft or TRL cannot adapt is refused with the reason, and the estimate counts what peft adapts."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("torch")

from peft import get_peft_model
from peft.utils import transformers_weight_conversion as conversion

from dimba.common.checkpoint.adapted import JOINED
from dimba.common.errors import BadInput
from dimba.host.checkpoint import look_at_checkpoint
from dimba.objectives.sft import SFT, SftOptions
from dimba.plan.adapter import adapter_parameters
from dimba.plan.job import resolved
from dimba.spec import JobSpec
from dimba.trainers.models.adapters import adapter_config
from dimba.trainers.models.loading import choose_compute, load_model, load_tokenizer
from tests.families import make_family

pytestmark = pytest.mark.slow
CPU = choose_compute("cpu")


def options(base: Path, *flags: str) -> SftOptions:
    named = ["--base-checkpoint", str(base), "--dataset", "rows", "--output-dir", "out", "--max-length", "256"]
    method = [] if "--use-qlora" in flags else ["--use-lora"]
    return SFT.parse([*named, *method, *flags])


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("families")

    def made(name: str) -> Path:
        if not (folder / name).exists():
            make_family(name, folder / name)
        return folder / name

    return made


def adapted(base: Path, *flags: str) -> Any:
    given = options(base, *flags)
    model = load_model(given, CPU)
    return get_peft_model(model, adapter_config(given, model, load_tokenizer(str(base))))


@pytest.mark.parametrize(
    ("family", "flags", "says"),
    [
        ("llama", ("--target-modules", "lm_head"), "`lm_head` gets no adapter"),
        ("llama", ("--target-modules", "mlp"), "holds gate_proj, up_proj, down_proj"),
        ("llama", ("--target-modules", ".*mlp.*"), "holds gate_proj"),
        ("llama", ("--target-modules", "norm"), "is no matrix"),
        ("llama", ("--target-modules", "rotary_emb"), "is no matrix"),
        ("llama", ("--target-modules", ".*(q_proj"), "is no regular expression"),
        ("llama", ("--target-modules", "all-linear", "embed_tokens"), "stands alone"),
        ("llama", ("--target-modules", "q_proj", "--modules-to-save", "q_proj"), "no adapter is left"),
        ("llama", ("--target-modules", "embed_tokens", "--trainable-tokens", "<|end|>"), "cannot have both"),
        ("llama", ("--lora-init", "orthogonal", "--lora-r", "5"), "even rank"),
        ("llama", ("--use-qlora", "--modules-to-save", "q_proj"), "is quantised, and cannot be trained whole"),
        ("mixtral", ("--lora-dropout", "0.1"), "not on joined experts"),
        ("mixtral", ("--use-dora",), "not on joined experts"),
        ("deepseek_v3", ("--lora-init", "orthogonal"), "not on joined experts"),
        ("mixtral", ("--target-modules", "w1"), "without also targeting w3"),
        ("gemma3", ("--target-modules", r".*vision_tower.*q_proj"), "rows of text do not reach"),
    ],
)
def test_it_is_refused_with_the_reason(family: str, flags: tuple[str, ...], says: str, families):
    with pytest.raises(BadInput) as refused:
        adapted(families(family), *flags)
    assert says in refused.value.detail and refused.value.hint and refused.value.key.startswith("--")


@pytest.mark.parametrize(
    ("family", "flags", "ends"),
    [
        ("llama", ("--target-modules", ".*q_proj", "v_proj"), {"q_proj", "v_proj"}),
        ("llama", ("--trainable-tokens", "<|end|>", "--modules-to-save", "embed_tokens", "lm_head"), {"q_proj"}),
        ("gpt_oss", ("--target-modules", "q_proj", "gate_up_proj"), {"q_proj", "experts"}),
        ("mixtral", ("--target-modules", "w1", "w2", "w3"), {"experts"}),
        ("mixtral", ("--target-modules", "q_proj", "--use-dora", "--lora-dropout", "0.1"), {"q_proj"}),
        ("gemma3", ("--target-modules", "q_proj"), {"q_proj"}),
    ],
)
def test_what_is_named_gets_an_adapter(family: str, flags: tuple[str, ...], ends: set[str], families):
    model = adapted(families(family), *flags)
    found = {name for name, each in model.named_modules() if getattr(each, "lora_A", None)}
    assert ends <= {part for name in found for part in name.split(".")} and "vision" not in str(found)


@pytest.mark.parametrize(
    ("family", "says"),
    [
        ("gpt_oss", "the experts get no adapter: name them with --lora-target-modules"),
        ("deepseek_v3", "no adapter on `down_proj`, `gate_proj`, `up_proj` outside of the experts"),
        ("mamba", "no adapter on `conv1d`, `dt_proj`, `out_proj`"),
    ],
)
def test_what_all_linear_leaves_out_is_reported(family: str, says: str, families, capsys):
    adapted(families(family))
    assert says in capsys.readouterr().out


FAMILIES = ("llama", "phi3", "gpt_neox", "mixtral", "deepseek_v3", "qwen2_moe", "gpt_oss", "granitemoe", "llama4")


@pytest.mark.parametrize("family", [*FAMILIES, "gemma3", "mamba", "jamba"])
def test_the_plan_counts_the_parameters_that_peft_trains(family: str, families):
    base = families(family)
    spec = JobSpec(
        version=1, mode="sft", base_checkpoint=str(base), dataset={"path": "d"}, method="lora", lora={"r": 8}
    )
    counted = adapter_parameters(resolved(spec), look_at_checkpoint(str(base), base.parent))
    model = adapted(base, "--lora-r", "8")
    assert counted == sum(each.numel() for each in model.parameters() if each.requires_grad)


def test_the_families_are_those_whose_experts_peft_joins():
    known = {
        name: set(conversion._MOE_TARGET_MODULE_MAPPING[pattern]) - {"gate"}
        for name, pattern in conversion._MODEL_TO_CONVERSION_PATTERN.items()
        if conversion._MOE_FUSED_TARGETS.get(pattern)
    }
    assert {name: set(taken) for name, taken in JOINED.items()} == known


@pytest.mark.parametrize(
    ("family", "name"), [("mamba", "out_proj"), ("mamba", "conv1d"), ("mamba", "dt_proj"), ("jamba", "dt_proj")]
)
def test_a_layer_whose_weights_are_read_without_calling_it_gets_no_adapter(family: str, name: str, families: Any):
    given = options(families(family), "--lora-target-modules", name)
    with pytest.raises(BadInput, match=f"{name}` gets no adapter: the state-space layers"):
        adapter_config(given, load_model(given, CPU))


@pytest.mark.parametrize(
    "family", ["mamba", "mamba2", "falcon_h1", "jamba", "recurrent_gemma", "lfm2", "qwen3_next", "deepseek_v3"]
)
def test_every_adapter_of_all_linear_gets_a_gradient(family: str, families: Any):
    model = adapted(families(family)).train()
    ids = torch.randint(3, 200, (2, 24), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    without = [name for name, each in model.named_parameters() if "lora_B" in name and each.grad is None]
    assert not without
