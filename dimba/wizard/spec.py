"""From answers to the values of a job spec, and its default names."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dimba.common.contract import LATEST, absolute, trained_files
from dimba.common.runners import AUTO, IN_ENGINE
from dimba.options import lora_table, optimiser_table, table, tracking_table
from dimba.options.diffusion_table import MASK_TOKEN
from dimba.options.grpo_table import NUM_GENERATIONS, REWARD
from dimba.options.param import Param
from dimba.wizard.batches import accumulation, is_auto
from dimba.wizard.facts import base_facts, columns, is_local, reference
from dimba.wizard.presets import find_preset
from dimba.wizard.state import State
from dimba.wizard.steps import base_code
from dimba.wizard.steps.further import default_of, key_of


def spec_values(state: State, flags: frozenset[str]) -> dict[str, Any]:
    """The keys of the spec in their usual order; of the trainer's own flags only those among `flags`."""
    value = state.value
    spec: dict[str, Any] = {
        "version": 1,
        "name": value("name"),
        "mode": value("mode"),
        "base_checkpoint": value("base_checkpoint"),
        "dataset": _dataset(state),
        "method": value("method"),
    }
    if value("method") != "full":
        spec["lora"] = {"r": value("lora_r"), "alpha": value("lora_alpha"), **_changed(state, lora_table.PARAMS)}
    spec["training"] = _training(state)
    spec["output_dir"] = value("output_dir")
    spec["trainer"] = trainer_name(state)
    if trainer_args := _trainer_args(state, flags):
        spec["trainer_args"] = trainer_args
    spec["resources"] = {"gpus": value("gpus"), **({"vram_gb": value("vram")} if value("vram") else {})}
    if container := _container(state):
        spec["container"] = container
    spec["runner"] = value("runner")
    return spec


def _container(state: State) -> dict[str, Any]:
    facts, in_image = base_facts(state), state.value("runner") in (AUTO, IN_ENGINE)
    is_newer = bool(facts and facts.library_type and facts.library_type.needs_latest)
    pins = {"pins": LATEST} if is_newer and in_image else {}
    return ({"env": ["HF_TOKEN"]} if state.value("hf_token") else {}) | pins


def trainer_name(state: State) -> str:
    """The trainer's path as the spec has it."""
    return str(state.value("trainer_path") or state.value("trainer"))


def _dataset(state: State) -> dict[str, Any]:
    renamed = {"columns": columns(state)} if columns(state) else {}
    if is_local(state):
        return {"path": reference(state), **renamed}
    config = {"config": state.value("dataset_config")} if state.value("dataset_config") else {}
    return {"name": reference(state), **config, "split": state.value("dataset_split"), **renamed}


def _training(state: State) -> dict[str, Any]:
    value = state.value
    steps = {} if is_auto(state) else {"grad_accumulation_steps": accumulation(state)}
    return {
        "batch_size": value("batch_size"),
        **steps,
        "epochs": value("epochs"),
        "max_steps": value("max_steps"),
        "learning_rate": value("learning_rate"),
        "max_length": value("max_length"),
        **_changed(state, (*optimiser_table.PARAMS, *tracking_table.PARAMS)),
    }


def _changed(state: State, params: Iterable[Param]) -> dict[str, Any]:
    """The values that differ from the defaults, by their key in a section of the spec."""
    values = [(param, state.value(key_of(param))) for param in params if state.objective.takes(param)]
    changed = [(param, value) for param, value in values if value not in (None, default_of(param, state))]
    return {param.key.partition(".")[2]: _as_yaml(value) for param, value in changed}


def _as_yaml(value: Any) -> Any:
    if isinstance(value, tuple):
        return value[0] if len(value) == 1 and not value[0].isidentifier() else list(value)
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _trainer_args(state: State, flags: frozenset[str]) -> dict[str, Any]:
    wanted = wanted_trainer_args(state)
    return {name: value for name, value in wanted.items() if f"--{name}" in flags}


def wanted_trainer_args(state: State) -> dict[str, Any]:
    """Answers without a key in the spec, by the trainer's own flags."""
    params = {"reward": REWARD, "num_generations": NUM_GENERATIONS}
    wanted = {param.name: state.value(key) for key, param in params.items() if state.objective.takes(param)}
    params_of_base = {base_code.TRUST: table.TRUST_REMOTE_CODE, base_code.MASK: MASK_TOKEN}
    wanted |= {param.name: value for key, param in params_of_base.items() if (value := state.value(key))}
    needs_rows = any(state.value(key_of(param)) for param in tracking_table.NEED_ROWS if state.objective.takes(param))
    return wanted | ({table.VALIDATION_SPLIT.name: tracking_table.HELD_OUT} if needs_rows else {})


def default_name(state: State) -> str:
    """The data's short name and the method."""
    source = reference(state)
    preset = find_preset(source)
    file_name = Path(source).name.partition(".")[0]
    short = preset.label if preset else file_name if is_local(state) else source.split("/")[-1]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", short).strip("-._") or state.value("mode")
    return f"{plain[:50]}-{state.value('method')}"


def default_output(state: State) -> str:
    """`checkpoints/finetune_<mode>_<method>`, numbered if that folder already holds a model."""
    return _first_free(
        state.objective.output_dir(state.value("method")),
        lambda name: bool(trained_files(absolute(name, state.folder))),
    )


def default_file(state: State) -> str:
    """`jobs/<name>.yaml`, numbered if that file exists."""
    name = state.value("name")
    return _first_free(f"jobs/{name}", lambda each: absolute(f"{each}.yaml", state.folder).exists()) + ".yaml"


def _first_free(name: str, taken: Callable[[str], bool]) -> str:
    number, free = 1, name
    while taken(free):
        number += 1
        free = f"{name}-{number}"
    return free
