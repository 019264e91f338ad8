"""The folder of a reward model that several jobs train."""

from pathlib import Path

from dimba.objectives.grpo import GRPO
from dimba.trainers.models.loading import Compute
from dimba.trainers.objectives.grpo.reward_model import _config, keep, part_folder


def trained(part: Path, text: str) -> Path:
    (part / "model").mkdir(parents=True)
    (part / "model" / "adapter_config.json").write_text(text)
    return part


def test_two_jobs_train_the_same_reward_model_in_separate_folders_and_the_first_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "0123abcd"
    one, two = (trained(part_folder(folder, str(tmp_path / name)), name) for name in ("one", "two"))
    assert one != two and part_folder(folder, f"{tmp_path}/x/../one") == one
    keep(one, folder)
    keep(two, folder)
    assert (folder / "adapter_config.json").read_text() == "one"
    assert [each.name for each in tmp_path.iterdir()] == ["0123abcd"]


def test_the_policys_schedule_and_optimiser_do_not_change_the_reward_model(tmp_path: Path) -> None:
    named = ["--base-checkpoint", "base", "--dataset", "rows", "--output-dir", str(tmp_path)]
    changed = ["--scheduler", "cosine", "--optimizer", "sgd", "--weight-decay", "0.1", "--max-grad-norm", "0.1"]
    of_policy = ("optim", "lr_scheduler_type", "weight_decay", "max_grad_norm", "warmup_steps", "report_to")
    plain, other = (
        _config(GRPO.parse([*named, *flags]), tmp_path, Compute(on_cpu=True, mixed="no"))
        for flags in ([], [*changed, "--warmup", "5"])
    )
    assert plain.lr_scheduler_type == "linear"
    assert all(getattr(plain, name) == getattr(other, name) for name in of_policy)
