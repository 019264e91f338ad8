"""From a spec and a machine to a plan: pure, so every machine can be tried here."""

from dataclasses import replace
from pathlib import Path

import pytest

from dimba.common.errors import BadInput, DimbaError, EngineFailed, HostCannot, SeveralErrors
from dimba.dataset.summary import DataSummary
from dimba.host.facts import (
    CheckpointFacts,
    DataFacts,
    EngineFacts,
    Gpu,
    GpuFacts,
    HostFacts,
    ImageFacts,
    OutputFacts,
    TrainerFacts,
)
from dimba.host.named_paths import look_at_named_paths
from dimba.objectives.dpo import DPO
from dimba.options.param import flags_of
from dimba.plan.build import Choices, make_plan
from dimba.spec import parse_spec
from tests.plan.pure import no_disk

CARDS = tuple(Gpu(index=n, uuid=f"GPU-{n}", name="RTX 4090", compute_capability=8.9) for n in range(2))
ENGINE = EngineFacts(reachable=True, version="28", cdi_devices=frozenset({"nvidia.com/gpu=0", "nvidia.com/gpu=1"}))
FLAGS = frozenset(
    [
        "--base-checkpoint",
        "--dataset",
        "--dataset-split",
        "--batch-size",
        "--grad-accumulation-steps",
        "--num-epochs",
        "--max-steps",
        "--learning-rate",
        "--use-lora",
        "--use-qlora",
        "--lora-r",
        "--lora-alpha",
        "--device",
        "--output-dir",
        "--max-length",
        "--seed",
        "--save-steps",
        "--columns",
        "--dry",
    ]
)
FACTS = HostFacts(
    folder=Path("/work"),
    runs=Path("/work/runs"),
    project=Path("/project"),
    python="/venv/bin/python",
    cores=8,
    cache=Path("/home/me/.cache/huggingface"),
    environment=frozenset({"HF_TOKEN"}),
    gpu=GpuFacts(gpus=CARDS, source="nvidia-smi"),
    engine=ENGINE,
    checkpoint=CheckpointFacts(reference="/work/base", local=True, parameters=1000, linear_sides={"mlp": 10}),
    data=DataFacts(
        reference="/work/data.jsonl",
        local=True,
        summary=DataSummary(format="messages", rows=100, columns=("messages",)),
    ),
    trainer=TrainerFacts(
        path=Path("/project/scripts/finetuning/finetune_sft.py"),
        in_image="/opt/dimba/scripts/finetuning/finetune_sft.py",
        flags=FLAGS,
        flags_from="--help",
    ),
    output=OutputFacts(path=Path("/work/out"), uid=1000, gid=1000, home=Path("/home/me")),
    image=ImageFacts(reference="dimba:k", key="k", base="b", base_digest="sha256:1", id="sha256:2"),
)
SPARSE = "version: 1\nmode: sft\nbase_checkpoint: base\ndataset: {path: data.jsonl}\nmethod: lora\noutput_dir: out\n"


def plan(added: str = "", facts: HostFacts = FACTS, **choices):
    text = SPARSE
    for line in added.splitlines():
        key = line.partition(":")[0]
        text = "".join(each for each in text.splitlines(keepends=True) if not each.startswith(f"{key}:")) + line + "\n"
    spec = parse_spec(text.encode(), source="job.yaml").spec
    facts = replace(facts, named=look_at_named_paths(spec, facts.folder))
    with no_disk():
        return make_plan(spec, facts, Choices(**choices))


def refusal(added: str = "", facts: HostFacts = FACTS) -> DimbaError:
    with pytest.raises(DimbaError) as raised:
        plan(added, facts)
    return raised.value


def trainer(*flags: str, **changes) -> HostFacts:
    return replace(FACTS, trainer=replace(FACTS.trainer, flags=frozenset(flags), **changes))


def after(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_the_argv_is_one_token_each_and_says_what_the_spec_says():
    argv = plan("training: {max_steps: 7, learning_rate: 2e-4}").argv
    assert argv[:6] == ("python", "-m", "dimba.supervisor.entry", "--prepare", "accelerate", "launch")
    assert after(argv, "--base-checkpoint") == "/work/base"
    assert after(argv, "--learning-rate") == "0.0002"
    assert after(argv, "--max-steps") == "7"
    assert "--use-lora" in argv and "--use-qlora" not in argv


def test_completions_a_prompt_are_counted_however_yaml_has_them():
    grpo = 'mode: grpo\ntrainer_args: {num-generations: "6"}'
    assert plan(grpo, trainer(*FLAGS, "--mode", "--num-generations", other_mode=True)).steps.completions == 6


def dpo_facts() -> HostFacts:
    script = FACTS.project / DPO.script
    return trainer(*flags_of(DPO.options), path=script, in_image=f"/opt/dimba/{DPO.script}")


def test_dpo_passes_beta_and_loss_to_its_own_trainer_with_its_rate():
    found = plan("mode: dpo\ntrainer_args: {beta: 0.3, loss-type: ipo}", dpo_facts())
    assert "/opt/dimba/scripts/finetuning/finetune_dpo.py" in found.argv
    assert (after(found.argv, "--beta"), after(found.argv, "--loss-type")) == ("0.3", "ipo")
    assert (after(found.argv, "--learning-rate"), after(found.argv, "--epochs")) == ("5e-06", "1")
    assert after(plan("mode: dpo\nmethod: full", dpo_facts()).argv, "--learning-rate") == "5e-07"
    assert (found.steps.effective_batch, found.steps.per_epoch) == (64, 2)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("on-long: split", "trainer_args.on-long: `split` separates answers from their prompt"),
        ("attention: documents", "trainer_args.attention: `documents` is for packed rows"),
        ("loss-type: robust", "trainer_args.loss-type: "),
        ("beta: 0", "trainer_args.beta: 0 is not above zero"),
    ],
)
def test_a_flag_that_means_nothing_for_pairs_is_refused_with_the_reason(value: str, message: str):
    assert message in refusal(f"mode: dpo\ntrainer_args: {{{value}}}", dpo_facts()).message


def test_qlora_passes_its_flag_and_loras_where_there_is_one():
    argv = plan("method: qlora").argv
    assert "--use-lora" in argv and "--use-qlora" in argv


def test_full_needs_no_flag_and_passes_one_where_there_is_one():
    assert not {"--use-lora", "--lora-r"} & set(plan("method: full").argv)
    argv = plan("method: full", trainer("--model", "--train-file", "--full-ft")).argv
    assert argv[-5:] == ("--model", "/work/base", "--train-file", "/work/data.jsonl", "--full-ft")


def test_the_first_alias_wins_and_what_has_no_flag_is_listed():
    facts = trainer("--model", "--base-model", "--dataset", "--lora", "--lr", "--num-gpus", "--data-format")
    made = plan("resources: {gpus: 1}", facts)
    assert after(made.argv, "--base-model") == "/work/base"
    assert "--model" not in made.argv
    assert after(made.argv, "--num-gpus") == "1"
    assert after(made.argv, "--data-format") == "jsonl"
    omitted = {each.key for each in made.omitted}
    assert {"training.batch_size", "output_dir", "lora.r", "training.seed"} <= omitted
    assert "resources.gpus" not in omitted


@pytest.mark.parametrize(
    ("flags", "added", "key"),
    [
        (("--dataset", "--use-lora"), "", "base_checkpoint"),
        (("--model", "--use-lora"), "", "dataset.path"),
        (("--model", "--dataset"), "", "method"),
        (("--model", "--dataset", "--use-lora"), "method: qlora", "method"),
        (("--model", "--dataset-path", "--use-lora"), "dataset: {name: a/b}", "dataset.name"),
    ],
)
def test_a_job_that_could_not_mean_what_was_asked_is_refused(flags: tuple[str, ...], added: str, key: str):
    error = refusal(added, trainer(*flags))
    assert isinstance(error, BadInput)
    assert error.message.startswith(f"{key}: the trainer has no flag")


def test_trainer_args_are_passed_or_refused_never_dropped():
    argv = plan("trainer_args: {save-steps: 10, dry: true, columns: [a=b, c=d]}").argv
    assert argv[-6:] == ("--save-steps", "10", "--dry", "--columns", "a=b", "c=d")
    assert "--dry" not in plan("trainer_args: {dry: false}").argv
    assert "did you mean `save-steps`?" in refusal("trainer_args: {save-step: 10}").hint
    assert "`training.learning_rate`" in refusal("trainer_args: {lr: 1}").hint
    assert "dimba sets `--use-qlora` itself" in refusal("trainer_args: {use-qlora: true}").message


def test_the_other_modes_trainer_runs_only_where_it_has_a_mode_flag():
    other = trainer(*FLAGS, other_mode=True)
    assert "none found for mode `grpo`" in refusal("mode: grpo", other).message
    assert after(plan("mode: grpo", trainer(*FLAGS, "--mode", other_mode=True)).argv, "--mode") == "grpo"


def test_all_takes_what_there_is_on_both_paths():
    made = plan()
    assert made.gpu_devices == ("nvidia.com/gpu=0", "nvidia.com/gpu=1")
    assert after(made.argv, "--num_processes") == "2" and "--multi_gpu" in made.argv
    assert after(made.argv, "--mixed_precision") == "bf16"
    assert plan(gpu_path="nvidia").gpu_devices == ()
    no_cdi = replace(FACTS, engine=replace(ENGINE, cdi_devices=frozenset()))
    assert plan(facts=no_cdi).gpu_devices == () and len(plan(facts=no_cdi).gpus) == 2


def test_without_a_gpu_all_means_the_cpu_and_says_so():
    made = plan(facts=replace(FACTS, gpu=GpuFacts(problem="no nvidia-smi")))
    assert "--cpu" in made.argv and after(made.argv, "--device") == "cpu"
    assert after(made.argv, "--mixed_precision") == "no"
    assert "on the CPU: no nvidia-smi" in made.notes


def test_cards_are_taken_by_number_index_and_uuid():
    assert [gpu.index for gpu in plan("resources: {gpus: 1}").gpus] == [0]
    assert [gpu.index for gpu in plan("resources: {gpus: [1]}").gpus] == [1]
    assert [gpu.index for gpu in plan("resources: {gpus: [GPU-1, 0]}").gpus] == [1, 0]
    assert plan("resources: {gpus: 0}").gpus == ()


@pytest.mark.parametrize(
    ("gpus", "facts"), [("4", FACTS), ("[2]", FACTS), ("[0]", replace(FACTS, gpu=GpuFacts(problem="none")))]
)
def test_cards_that_are_not_there_are_refused(gpus: str, facts: HostFacts):
    error = refusal(f"resources: {{gpus: {gpus}}}", facts)
    assert isinstance(error, HostCannot) and error.exit_status == 3
    assert "gpus: all" in error.hint


def test_an_old_card_computes_in_fp16():
    old = replace(FACTS, gpu=GpuFacts(gpus=(replace(CARDS[0], compute_capability=7.5),)))
    assert after(plan(facts=old).argv, "--mixed_precision") == "fp16"


def test_auto_falls_back_to_a_process_and_docker_does_not():
    gone = replace(FACTS, engine=EngineFacts(reachable=False, problem="nothing listens"), image=None)
    made = plan(facts=gone)
    assert made.runner == "process" and made.argv[0] == "/venv/bin/python"
    assert any("nothing listens" in note for note in made.notes)
    error = refusal("runner: docker", gone)
    assert isinstance(error, EngineFailed) and error.exit_status == 4


def test_an_engine_on_another_machine_is_refused():
    far = replace(FACTS, engine=EngineFacts(reachable=True, local=False, address="ssh://box"))
    assert "its own folders" in refusal(facts=far).message


def test_host_folders_are_mounted_at_the_same_place():
    mounts = {each.target: (each.source, each.read_only) for each in plan().mounts}
    assert mounts == {
        "/work/base": ("/work/base", True),
        "/work/data.jsonl": ("/work/data.jsonl", True),
        "/home/me/.cache/huggingface": ("/home/me/.cache/huggingface", False),
        "/work/out": ("/work/out", False),
    }


@pytest.mark.parametrize(
    ("added", "network"),
    [
        ("", "none"),
        ("dataset: {name: a/b}", "bridge"),
        ("container: {env: [HF_TOKEN]}", "none"),
        ("container: {env: ['HF_ENDPOINT=http://mirror']}", "bridge"),
        ("container: {env: ['WANDB_PROJECT=p']}", "bridge"),
        ("container: {env: ['WANDB_PROJECT=p', WANDB_MODE=offline]}", "none"),
        ("container: {env: ['https_proxy=http://p']}", "bridge"),
        ("container: {network: bridge}", "bridge"),
        ("container: {network: host}", "host"),
        ("dataset: {name: a/b}\ncontainer: {network: none}", "none"),
    ],
)
def test_a_job_has_no_network_that_it_does_not_need(added: str, network: str):
    facts = replace(FACTS, data=DataFacts(reference="a/b", local=False)) if "a/b" in added else FACTS
    made = plan(added, facts)
    assert made.network == network == made.as_json()["network"] and made.network_why
    assert ("HF_HUB_OFFLINE" in made.environment) == (network == "none")
    assert made.environment.get("GLOO_SOCKET_IFNAME") == ("lo" if network == "none" else None)


def test_a_reward_model_on_the_hub_needs_a_network():
    flags = trainer(*FLAGS, "--reward-model")
    assert plan("trainer_args: {reward-model: org/model}", flags).network == "bridge"
    assert plan("trainer_args: {reward-model: /work/model}", flags).network == "none"


def test_a_process_cannot_be_kept_from_the_network():
    gone = replace(FACTS, engine=EngineFacts(reachable=False, problem="away"), image=None)
    assert plan("runner: process", gone).network is None
    assert refusal("runner: process\ncontainer: {network: none}", gone).message.startswith("container.network: ")
    assert refusal("container: {network: none}", gone).exit_status == 4


@pytest.mark.parametrize("below", ["", "/x"])
@pytest.mark.parametrize("inside", ["/opt/dimba", "/opt/venv", "/proc", "/sys", "/dev", "//proc", "/a/../proc", "up"])
def test_what_the_image_needs_is_not_mounted_over(tmp_path: Path, inside: str, below: str):
    error = refusal(f"container: {{mounts: ['{tmp_path}:{inside}{below}']}}")
    assert error.message.startswith("container.mounts: ") and error.hint


@pytest.mark.parametrize("inside", ["/", "/opt", "/usr", "/etc/", "/lib"])
def test_nor_is_what_programs_need(tmp_path: Path, inside: str):
    assert "would hide" in refusal(f"container: {{mounts: ['{tmp_path}:{inside}']}}").message


@pytest.mark.parametrize(
    "inside", ["/work/base", "/work/base/tokenizer.json", "/work", "/work/out", "/work/data.jsonl", "/work/runs/x"]
)
def test_what_the_job_is_given_is_not_mounted_over(tmp_path: Path, inside: str):
    assert "mounted already" in refusal(f"container: {{mounts: ['{tmp_path}:{inside}:rw']}}").message


def test_further_folders_are_mounted_beside_and_around(tmp_path: Path):
    (tmp_path / "base").mkdir()
    around = replace(FACTS, checkpoint=replace(FACTS.checkpoint, reference=f"{tmp_path}/base"))
    mounts = [f"{tmp_path}", f"{tmp_path}/base:/etc/extra", f"{tmp_path}/base:/tmp/scratch:rw"]
    made = plan(f"container: {{mounts: {mounts}}}", around).mounts
    assert [each.target for each in made[-3:]] == [str(tmp_path), "/etc/extra", "/tmp/scratch"]
    assert "mounted already" in refusal(f"container: {{mounts: ['{tmp_path}:/x', '{tmp_path}:/x']}}").message


def test_a_trainer_from_outside_the_image_is_mounted_as_one_file():
    facts = trainer(*FLAGS, path=Path("/elsewhere/mine.py"), in_image=None)
    made = plan(facts=facts)
    assert ("/elsewhere/mine.py", True) in {(each.target, each.read_only) for each in made.mounts}
    assert "/elsewhere/mine.py" in made.argv


def test_secrets_are_in_the_plan_by_name_only():
    made = plan("container: {env: [HF_TOKEN, WANDB_MODE=offline]}")
    assert made.host_environment == ("HF_TOKEN",)
    assert "HF_HUB_DISABLE_IMPLICIT_TOKEN" in plan().environment
    assert "HF_HUB_DISABLE_IMPLICIT_TOKEN" not in made.environment
    assert made.environment["WANDB_MODE"] == "offline"
    assert {"HF_TOKEN", "WANDB_MODE", "HF_HOME"} <= set(made.as_json()["env"])
    assert "`NOT_SET` is not set here" in refusal("container: {env: [NOT_SET]}").message


def test_a_secret_too_short_to_be_masked_is_refused():
    short = replace(FACTS, short_secrets=frozenset({"HF_TOKEN", "OTHER_KEY"}))
    error = refusal("container: {env: [HF_TOKEN]}", short)
    assert error.exit_status == 2 and "`HF_TOKEN`" in error.message and "masked" in error.message
    assert plan(facts=short)


def test_batches_become_steps():
    steps = plan("training: {batch_size: 4, grad_accumulation_steps: 2, epochs: 3}").steps
    assert (steps.processes, steps.effective_batch, steps.per_epoch, steps.total) == (2, 8, 13, 39)


@pytest.mark.parametrize(
    ("batch", "accumulation", "cards", "each"),
    [(4, 8, 1, (4, 8)), (4, 8, 2, (4, 4)), (4, 8, 4, (4, 2)), (4, 1, 2, (2, 1)), (2, 2, 4, (1, 1))],
)
def test_a_step_is_the_same_on_any_number_of_processes(
    batch: int, accumulation: int, cards: int, each: tuple[int, int]
):
    facts = replace(FACTS, gpu=GpuFacts(gpus=tuple(Gpu(index=n) for n in range(cards))))
    made = plan(f"training: {{batch_size: {batch}, grad_accumulation_steps: {accumulation}}}", facts)
    assert made.steps.effective_batch == batch * accumulation and made.steps.processes == cards
    assert (made.steps.batch_size, made.steps.accumulation) == each
    flags = after(made.argv, "--batch-size"), after(made.argv, "--grad-accumulation-steps")
    assert flags == tuple(map(str, each))


@pytest.mark.parametrize(
    ("batch", "accumulation", "near"), [(4, 3, "2 (8 per step) or 4 (16 per step)"), (1, 1, "2 (2")]
)
def test_a_step_that_cannot_be_shared_is_refused_with_the_nearest(batch: int, accumulation: int, near: str):
    error = refusal(f"training: {{batch_size: {batch}, grad_accumulation_steps: {accumulation}}}")
    assert error.exit_status == 2 and "by 2 processes" in error.message and near in error.hint


def test_groups_stay_whole_where_a_step_is_shared():
    spec = "mode: grpo\ntraining: {batch_size: 1, grad_accumulation_steps: 4}\ntrainer_args: {num-generations: 8}"
    steps = plan(spec, trainer(*FLAGS, "--mode", "--num-generations", other_mode=True)).steps
    assert (steps.effective_batch, steps.accumulation, steps.completions) == (8, 4, 8)


def test_a_used_output_folder_is_refused_but_not_to_its_own_run():
    used = replace(FACTS, output=replace(FACTS.output, holds=("config.json",), run_id="before"))
    error = refusal(facts=used)
    assert error.exit_status == 2 and "already holds a model of run `before`" in error.message
    assert plan(facts=used, run_id="before")


def test_everything_wrong_is_said_at_once_and_the_specs_mistakes_come_first():
    bad = replace(
        FACTS,
        checkpoint=replace(FACTS.checkpoint, problem="does not exist", hint="make it"),
        data=replace(FACTS.data, problem="data.jsonl:3: not valid JSON", hint="correct it"),
    )
    error = refusal("resources: {gpus: 4}", bad)
    assert isinstance(error, SeveralErrors) and len(error.errors) == 3
    assert error.exit_status == 2


def test_several_machines_are_for_a_cluster():
    error = refusal("resources: {nodes: 2}")
    assert "runner: slurm" in error.hint and error.exit_status == 2


def test_the_json_has_the_contracts_keys():
    value = plan().as_json()
    assert {"argv", "omitted", "image", "mounts", "env", "gpus", "memory"} <= set(value)
    assert value["memory"]["model_states"] > 0


def test_a_plan_for_an_attempt_mounts_its_folder():
    made = plan().for_attempt("run-1", Path("/work/runs/run-1/attempts/1"))
    assert made.mounts[-1].target == "/work/runs/run-1/attempts/1" and not made.mounts[-1].read_only
    assert made.environment["DIMBA_RUN_ID"] == "run-1"


def test_the_plan_says_how_the_model_is_shared_and_why():
    one = replace(FACTS, gpu=GpuFacts(gpus=CARDS[:1]))
    assert plan(facts=one).strategy == "one process"
    made = plan()
    assert made.strategy == "ddp" and "2 processes holds the complete model" in made.strategy_why
    assert "as asked" in plan("accelerate: {strategy: ddp}").strategy_why
    small = tuple(replace(card, memory_mib=12_000) for card in CARDS)
    large = replace(
        FACTS, gpu=GpuFacts(gpus=small), checkpoint=replace(FACTS.checkpoint, parameters=10**9, weight_bytes=4 * 10**9)
    )
    made = plan("method: full", large)
    assert made.strategy == "fsdp2" and "does not fit" in made.strategy_why
    assert "--use_fsdp" in made.argv and "--multi_gpu" not in made.argv
    assert plan("method: full", replace(large, trainer=replace(FACTS.trainer, path=Path("own.py")))).strategy == "ddp"
    made = plan("method: full\naccelerate: {strategy: ddp}\nresources: {memory_check: false}", large)
    assert made.strategy == "ddp" and "does not fit" in made.strategy_why and "--use_fsdp" not in made.argv
    assert plan("accelerate: {strategy: fsdp2}").strategy == "fsdp2"


@pytest.mark.parametrize(
    ("added", "why"),
    [
        ("method: qlora", "4-bit"),
        ("resources: {gpus: none}", "no effect on the CPU"),
        ("resources: {gpus: 1}", "two GPUs"),
    ],
)
def test_fsdp2_is_refused_with_the_reason(added: str, why: str):
    error = refusal(f"{added}\naccelerate: {{strategy: fsdp2}}")
    assert error.exit_status == 2 and why in error.message and "strategy" in error.hint


def test_columns_that_are_not_read_and_a_template_that_shows_the_date_are_notes():
    ours = trainer(*FLAGS, "--template-date", "--reward")
    summary = replace(FACTS.data.summary, unread=("id", "source"))
    dated = replace(ours.checkpoint, shows_date=True)
    facts = replace(ours, data=replace(FACTS.data, summary=summary), checkpoint=dated)
    notes = plan(facts=facts).notes
    assert "data: columns not read: id, source" in notes
    assert any(
        "shows the date, that of the first run" in note and "template-date: 2026-11-28" in note for note in notes
    )
    sampled = plan("mode: grpo\ntrainer_args: {reward: length}", facts).notes
    assert any("shows the date, that on which the job starts or resumes" in note for note in sampled)
    pinned = plan("trainer_args: {template-date: 2020-02-29}", facts)
    assert "base_checkpoint: its chat template shows the date, 2020-02-29 in every row" in pinned.notes
    assert not any("not read" in note for note in plan(facts=replace(facts, trainer=FACTS.trainer)).notes)


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "adafactor", "adagrad"])
def test_an_optimiser_that_cannot_be_sharded_is_refused_with_fsdp2(optimizer: str):
    error = refusal(f"training: {{optimizer: {optimizer}}}\naccelerate: {{strategy: fsdp2}}")
    assert f"{optimizer} does not work with `fsdp2`" in error.message and error.key == "training.optimizer"
    assert plan(f"training: {{optimizer: {optimizer}}}").strategy != "fsdp2"


@pytest.mark.parametrize(
    ("training", "steps"),
    [
        ("warmup: 100, max_steps: 3", "100 of 3 steps"),
        ("warmup: 0.03, max_steps: 1", "1 of 1 step"),
        ("max_steps: 1", "1 of 1 step"),  # by the default
    ],
)
def test_a_warmup_as_long_as_the_training_is_reported(training: str, steps: str):
    note = f"training.warmup: {steps}, so that the full learning rate is never reached; 0 leaves it out"
    assert note in plan(f"training: {{{training}}}").notes


def test_a_shorter_warmup_is_not_reported():
    for training in ("warmup: 2, max_steps: 3", "warmup: 0.1, max_steps: 10", "warmup: 0, max_steps: 1"):
        assert not [note for note in plan(f"training: {{{training}}}").notes if "warmup" in note]
