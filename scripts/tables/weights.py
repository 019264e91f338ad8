"""Writes dimba/common/checkpoint/weights.jsonl: the tensors that each causal family of transformers always has.

    python scripts/tables/weights.py [MODEL_TYPE …]

Each family is made on the meta device, with every switch of its configuration flipped in turn: only names that all
variants have, in every layer, and that saving does not rename are in the table, so that no right checkpoint lacks one.
Sides of tensors are written as terms of configuration values where three configurations of different sizes agree.
Of a family with experts the feed-forward layers are left out, and of one whose layers differ, all layers.
"""

import json
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

FILE = Path(__file__).parents[2] / "dimba" / "common" / "checkpoint" / "weights.jsonl"
# One letter for each size: the names of the attribute, and three values that share no sums or products.
_SIZES: dict[str, tuple[tuple[str, ...], tuple[int, int, int]]] = {
    "h": (("hidden_size",), (96, 240, 336)),
    "a": (("num_attention_heads",), (8, 12, 24)),
    "k": (("num_key_value_heads",), (4, 6, 12)),
    "d": (("head_dim",), (28, 36, 44)),
    "i": (("intermediate_size", "ffn_dim", "n_inner"), (152, 424, 568)),
    "v": (("vocab_size",), (307, 503, 701)),
}
_TERMS = (
    "v",
    "h",
    "i",
    "2*i",
    "3*h",
    "a*d",
    "k*d",
    "(a+2*k)*d",
    "3*a*d",
    "2*a*d",
    "d",
    "a",
    "k",
    "2*h",
    "h+2*d",
    "4*h",
)
_UNEVEN = re.compile(r"expert|moe|sparse|router")
_MIXED = re.compile(
    r"mamba|ssm|conv|linear_attn|linear_num|kv_shared|recurrent|rwkv|block_type|layers_block|shared_layers"
)
_FEED_FORWARD = re.compile(r"mlp|moe|expert|router|feed_forward|ffn|gate")
_DEPTH = 4
_LEFT = ("use_cache", "tie_word_embeddings", "num_hidden_layers", "n_layer", "n_layers", "num_layers", "layer_types")


def entry(kind: str) -> dict[str, Any] | None:
    """The line of a model type; None if transformers cannot make it from its defaults here."""
    sized = [_sized(kind, number) for number in range(3)]
    base = sized[0] or _config(kind, {})
    model = _model(base) if base is not None else None
    if model is None or type(base) is not type(model.config):
        return None
    names, steady = _always(kind, base, model)
    layers, layer = _layers(kind, names, model)
    outside = sorted(name for name in names if not re.search(r"\.\d+\.", name))
    models = [_model(config) for config in sized if config is not None]
    shapes = _shapes(models, [each for each in (*outside, *layers) if each in steady])
    plain, head = CONFIG_MAPPING[kind](), model.get_output_embeddings()
    heads = [name for name, module in model.named_modules() if module is head]
    return {
        "type": kind,
        "prefix": model.base_model_prefix,
        "stack": _stack(model),
        "tied": bool(plain.tie_word_embeddings),
        "layers": [_key(base, "num_hidden_layers"), plain.num_hidden_layers],
        "head": f"{heads[0]}.weight" if heads else "",
        "embedding": _name_of(model, model.get_input_embeddings()),
        "ignored": sorted(model._keys_to_ignore_on_load_unexpected or ()),
        "sizes": {letter: [_key(base, name), _default(kind, letter, name)] for letter, name in _letters(kind).items()},
        "outside": outside,
        "layer": layer,
        "shapes": shapes,
    }


def _always(kind: str, base: Any, model: Any) -> tuple[set[str], set[str]]:
    """The names that every variant has in memory and as `save_pretrained` writes them; those of a steady shape."""
    names, shapes = _names(model) or set(), _sides(model)
    steady = set(names)
    sizes = {_key(base, name) for name in _letters(kind).values()}
    for changed in _variants(base, sizes):
        other = _model(config) if (config := _config(kind, {**_given(kind, base), **changed})) is not None else None
        if other is None or (kept := _names(other)) is None:
            continue
        names &= kept
        found = _sides(other)
        steady &= {name for name in names if found.get(name) == shapes[name]}
    return names, steady & names


def _variants(base: Any, sizes: set[str]) -> Iterator[dict[str, Any]]:
    """Changes of one key each: switches flipped, numbers doubled, or taken away, or given."""
    for key, value in base.to_dict().items():
        if key in sizes or key in _LEFT or key.endswith("_token_id"):
            continue
        if isinstance(value, bool):
            yield {key: not value}
        elif isinstance(value, int):
            yield from ({key: value * 2}, {key: None}, {key: 0}, {key: 1})
        elif value is None:
            yield from ({key: 64}, {key: True})


def _sides(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _name_of(model: Any, module: Any) -> str:
    return next((f"{name}.weight" for name, each in model.named_modules() if each is module), "")


def _stack(model: Any) -> str:
    """The common start of the names of all layers, such as `model.layers.`."""
    found = (re.match(r"(.*?\.)\d+\.", name) for name, _ in model.named_parameters())
    starts = [match[1] for match in found if match]
    return max(set(starts), key=starts.count, default="")


def _names(model: Any) -> set[str] | None:
    """The names of parameters that saving keeps; None if the model cannot be saved."""
    tensors = model.state_dict()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    try:
        saved = revert_weight_conversion(model, dict(tensors))
    except Exception:
        return None
    return parameters & set(saved)


def _layers(kind: str, names: set[str], model: Any) -> tuple[list[str], list[str]]:
    """The names of layer 0, and as templates those that all layers have."""
    keys = " ".join(CONFIG_MAPPING[kind]().to_dict())
    if _MIXED.search(keys):
        return [], []
    depth = model.config.num_hidden_layers
    by_layer = [{re.sub(r"\.\d+\.", ".#.", each, count=1) for each in names if f".{n}." in each} for n in range(depth)]
    common = set.intersection(*by_layer) if by_layer else set()
    if _UNEVEN.search(keys):
        common = {each for each in common if not _FEED_FORWARD.search(each)}
    return [each.replace("#", "0") for each in sorted(common)], sorted(common)


def _shapes(models: list[Any], names: list[str]) -> dict[str, list[str]]:
    """Name → terms of its sides; names of which a side fits no term are left out."""
    if len(models) < 3:
        return {}
    states = [model.state_dict() for model in models]
    found = {}
    for name in names:
        shapes = [list(state[name].shape) if name in state else [] for state in states]
        terms = [_term([shape[side] for shape in shapes], models) for side in range(len(shapes[0]))]
        if all(terms) and len({len(shape) for shape in shapes}) == 1:
            found[re.sub(r"\.0\.", ".#.", name, count=1)] = terms
    return found


def _term(sides: list[int], models: list[Any]) -> str:
    for term in _TERMS:
        values = [_value(term, model.config) for model in models]
        if values == sides:
            return term
    return ""


def _value(term: str, config: Any) -> int | None:
    sizes = {letter: getattr(config, name, None) for letter, name in _letters(config.model_type).items()}
    sizes = {**dict.fromkeys(_SIZES), **sizes}
    sizes["d"] = sizes["d"] or (sizes["h"] // sizes["a"] if sizes["h"] and sizes["a"] else None)
    sizes["k"] = sizes["k"] or sizes["a"]
    try:
        return int(eval(term, {}, sizes))
    except TypeError:
        return None


def _letters(kind: str) -> dict[str, str]:
    """Letter → the attribute that the family has for it; a head's size can be given to any."""
    config = CONFIG_MAPPING[kind]()
    found = {
        letter: next((name for name in names if hasattr(config, name)), "") for letter, (names, _) in _SIZES.items()
    }
    return {letter: name for letter, name in found.items() if name} | {"d": "head_dim"}


def _key(config: Any, name: str) -> str:
    return str(type(config).attribute_map.get(name, name))


def _default(kind: str, letter: str, name: str) -> int | str | None:
    """What a size is where config.json lacks it: a number, None for what follows from others, or "?"."""
    plain, letters = getattr(CONFIG_MAPPING[kind](), name, None), _letters(kind)
    others = {letters[each]: _SIZES[each][1][1] for each in ("h", "a", "k") if each in letters and each != letter}
    sized = _config(kind, {CONFIG_MAPPING[kind].attribute_map.get(key, key): value for key, value in others.items()})
    value = getattr(sized, name, "?") if sized is not None else "?"
    if value == plain:
        return plain if isinstance(plain, int) else None
    follows = {"d": _SIZES["h"][1][1] // _SIZES["a"][1][1], "k": _SIZES["a"][1][1]}
    return None if value == follows.get(letter) else "?"


def _sized(kind: str, number: int) -> Any:
    letters = _letters(kind)
    given = {
        CONFIG_MAPPING[kind].attribute_map.get(name, name): _SIZES[each][1][number] for each, name in letters.items()
    }
    for left in ((), ("head_dim",)):
        config = _config(kind, {key: value for key, value in given.items() if key not in left})
        if config is not None and _model(config) is not None:
            return config
    return None


def _given(kind: str, config: Any) -> dict[str, Any]:
    found = {_key(config, name): getattr(config, name, None) for name in _letters(kind).values()}
    return {key: value for key, value in found.items() if value is not None and key in config.to_dict()}


def _config(kind: str, given: dict[str, Any]) -> Any:
    """A configuration of few layers; None if the class refuses it."""
    cls = CONFIG_MAPPING[kind]
    depth = {cls.attribute_map.get("num_hidden_layers", "num_hidden_layers"): _DEPTH}
    for more in ({**depth, "pad_token_id": 0}, depth, {}):
        with suppress(Exception):
            return cls(**given, **more)
    return None


def _model(config: Any) -> Any:
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except Exception:
        return None


def _lines(kinds: list[str]) -> Iterator[str]:
    for kind in kinds:
        try:
            found = entry(kind)
        except Exception as error:
            print(f"{kind}: {error!r}", file=sys.stderr)
            continue
        print(f"{kind}: {len(found['layer']) if found else None} of a layer", file=sys.stderr, flush=True)
        if found:
            yield json.dumps(found) + "\n"


# Of dimba's own architectures: what the letters stand for, and the terms that sides may have.
_OWN_SIZES = {
    "h": "d_model", "e": "expand", "n": "d_state", "p": "headdim", "c": "d_conv", "i": "ffn_dim", "v": "vocab_size",
    "m": "condition_dim", "t": "time_dim", "w": "time_width",
}  # fmt: skip
_OWN_TERMS = ("v", "h", "2*h", "6*h", "i", "m", "t", "w", "1", "c", "e*h", "e*h/p", "e*h+2*n", "2*e*h+2*n+e*h/p")


def own_entry() -> dict[str, Any]:
    """The line of DIMBA, whose every weight is known: a file with another one is refused."""
    from dimba.models.dimba import DimbaConfig, DimbaForMaskedLM

    given = {"vocab_size": 307, "d_model": 92, "expand": 3, "headdim": 12, "d_state": 7, "d_conv": 5, "ffn_dim": 101}
    config = DimbaConfig(**given, condition_dim=41, time_dim=22, time_width=59, num_layers=_DEPTH)
    with torch.device("meta"):
        model = DimbaForMaskedLM(config)
    sizes = {letter: getattr(config, name) for letter, name in _OWN_SIZES.items()}
    shapes = {
        re.sub(r"\.0\.", ".#.", name, count=1): [
            next(term for term in _OWN_TERMS if eval(term.replace("/", "//"), {}, sizes) == side) for side in sides
        ]
        for name, sides in _sides(model).items()
        if not re.search(r"\.[1-9]\.", name)
    }
    plain = DimbaConfig()
    return {
        "type": "dimba",
        "prefix": model.base_model_prefix,
        "stack": _stack(model),
        "tied": True,
        "layers": ["num_layers", plain.num_layers],
        "head": "lm_head.weight",
        "embedding": _name_of(model, model.get_input_embeddings()),
        "ignored": [],
        "closed": True,
        "sizes": {letter: [name, getattr(plain, name)] for letter, name in _OWN_SIZES.items()},
        "outside": [name for name in shapes if "#" not in name],
        "layer": [name for name in shapes if "#" in name],
        "shapes": shapes,
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    families = json.loads((FILE.parent / "families.json").read_text("utf-8"))
    known = [each for each in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if each in families and not families[each].get("sees")]
    lines = list(_lines([each for each in sys.argv[1:] or known if each != "dimba"]))
    lines += [json.dumps(own_entry()) + "\n"] if "dimba" in (sys.argv[1:] or ["dimba"]) else []
    if sys.argv[1:]:
        sys.stdout.writelines(lines)
    else:
        FILE.write_text("".join(lines), "utf-8")
