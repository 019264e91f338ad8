"""Names of weights that wrappers, adapters and other heads give away, and the command that renames them."""

import re
from collections.abc import Iterable
from pathlib import Path

from dimba.common.checkpoint.refusal import Refusal

# What torch.compile, FSDP, its activation checkpointing, DeepSpeed and DDP put into the names of what they wrap.
_PARTS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module")
_KNOWN = re.compile(rf"(?<![^.])({'|'.join(_PARTS)})\.")
_ADAPTER = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|base_layer|modules_to_save)\b")
OTHER_HEAD = re.compile(r"(^|\.)(score|classifier|classification_head|qa_outputs|reward_head|cls|pooler)\.")
CAUSAL = "give the checkpoint of the causal model, which has its head"
MERGE = "merge the adapter into its base (`merge_and_unload` of peft) and save that"


def without_wrappers(name: str) -> str:
    """The name without the parts of known wrappers."""
    return _KNOWN.sub("", name)


def adapter_name(names: Iterable[str]) -> str:
    """The first name of an adapter's tensor, or of one that an adapter wraps; empty without any."""
    return next((name for name in names if _ADAPTER.search(name)), "")


def other_head(names: Iterable[str]) -> str:
    """The first name of a tensor of a classifier's or a reward model's head; empty without any."""
    return next((name for name in names if OTHER_HEAD.search(name)), "")


def unmerged_refusal(name: str) -> Refusal:
    """The refusal of a model that was saved with its adapter inside, which has the tensor `name`."""
    return Refusal(f"holds a model with an adapter that is not merged (`{name}`)", MERGE)


def wrapped_refusal(folder: Path, names: Iterable[str], prefix: str = "") -> Refusal:
    """The refusal of names with a `prefix`, or without one given, with the parts of known wrappers."""
    names = list(names)
    example = next(name for name in names if (name.startswith(prefix) if prefix else _KNOWN.search(name)))
    found = {part for name in names for part in _KNOWN.findall(name)}
    parts = [f"{part}." for part in _PARTS if part in found]
    pattern = f"^{re.escape(prefix)}" if prefix else rf"\b({'|'.join(map(re.escape, sorted(found)))})\."
    named = f"`{prefix}`" if prefix else " and ".join(f"`{part}`" for part in parts)
    problem = f"has {named} in its weights' names (`{example}`), where transformers does not look for it"
    return Refusal(problem, f"remove it: `{_command(folder, pattern)}`")


def _command(folder: Path, pattern: str) -> str:
    """The command that renames the tensors in every file and index."""
    imports = "import json, re; from pathlib import Path; from safetensors.torch import load_file as l, save_file as s"
    given = f"d = Path('{folder}'); n = lambda m: {{re.sub(r'{pattern}', '', k): v for k, v in m.items()}}"
    cloned = "n({k: v.clone() for k, v in l(f).items()})"  # the file is mapped, and written over
    weights = f"[s({cloned}, f, metadata={{'format': 'pt'}}) for f in d.glob('*.safetensors')]"
    index = "[f.write_text(json.dumps({**j, 'weight_map': n(j['weight_map'])})) "
    index += "for f in d.glob('*.index.json') for j in [json.loads(f.read_text())]]"
    return f'python -c "{imports}; {given}; {weights}; {index}"'
