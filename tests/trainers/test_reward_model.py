"""The folder of a reward model that several jobs train."""

from pathlib import Path

from dimba.trainers.objectives.grpo.reward_model import keep, part_folder


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
