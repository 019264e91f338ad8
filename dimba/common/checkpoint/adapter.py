"""An adapter beside a model, which transformers would load with it in silence."""

from pathlib import Path

from dimba.common.checkpoint.files import weight_files
from dimba.common.checkpoint.refusal import Refusal
from dimba.common.contract import absolute, read_json_object

CONFIG = "adapter_config.json"


def adapter_refusal(folder: Path) -> Refusal | None:
    """The refusal of a folder that holds an adapter, with a model beside it or without."""
    if not (folder / CONFIG).exists():
        return None
    base = read_json_object(folder / CONFIG).get("base_model_name_or_path")
    is_itself = isinstance(base, str) and absolute(base) == absolute(folder)
    named = f" on {base}" if base else ""
    ways = "merge it into its base (`merge_and_unload` of peft)"
    ways += f", or give the base itself: `{base}`" if base and not is_itself else ", or give the base itself"
    if not (folder / "config.json").exists():
        return Refusal(f"holds an adapter{named}, not a model", ways)
    if any(not file.name.startswith("adapter_model") for file in weight_files(folder)):
        away = f"`mkdir {folder}/adapter && mv {folder}/adapter_* {folder}/adapter/`"
        return Refusal(f"holds an adapter{named} beside a model", f"{ways}; or train the model without it: {away}")
    return Refusal(f"holds an adapter{named}, beside config.json without weights", ways)
