"""The files of a data set on this machine: of a file, a folder, a pattern, or a folder of `datasets.save_to_disk`."""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dimba.common.contract import DATA_SUFFIXES, is_pattern, read_json_object
from dimba.common.errors import BadInput
from dimba.dataset.files.patterns import matches_below, pattern_base

_SAVED, _SAVED_SPLITS = ("state.json", "dataset_info.json"), "dataset_dict.json"  # of `save_to_disk`
_EMPTY, _TWICE = "as empty", "as read already"  # reasons why a file is not read
_LISTED = 5  # names in a message
_NUMBERS = re.compile(r"(\d+)")
_HIDDEN = (".", "_")  # of names such as .git, .cache, _SUCCESS
# Files beside the rows, whose suffix may be that of rows.
_BESIDE = re.compile(
    r"(read_?me|licen[cs]e|notice|changelog|copying|citation|requirements|checksums?|sha256sums?)\b.*"
    r"|(dataset_infos?|dataset_dict|state|metadata|info|config)\.json"
    r"|cache-.*\.arrow",
    re.IGNORECASE,
)
# Words of names that tell a split, as `datasets` reads them.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_WORD = re.compile(r"[a-z]+")
_WITHOUT = "remove `dataset.split`: without it all its rows are read"


@dataclass(frozen=True)
class DataFiles:
    """Files in the order in which they are read, and those that lie beside them and are not read, with the reason."""

    files: tuple[Path, ...]
    left_out: tuple[tuple[Path, str], ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each reason why a file is not read."""
        why = dict.fromkeys(reason for _, reason in self.left_out)
        return tuple(
            f"not read, {reason}: {_names(at for at, each in self.left_out if each == reason)}" for reason in why
        )

    @property
    def looked_at(self) -> Iterator[Path]:
        """Files beside the rows that decide which files are read."""
        yield from (each for each, reason in self.left_out if reason in (_EMPTY, _TWICE))
        for folder in dict.fromkeys(each.parent for each in self.files):
            beside = (*(folder / name for name in _SAVED), folder.parent / _SAVED_SPLITS)
            yield from (each for each in beside if each.is_file())


@dataclass
class _Found:
    files: list[Path] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)


def find_files(place: Path, split: str | None = None) -> DataFiles:
    """The files of `place`, which is one file, a folder or a pattern such as `shards/*.jsonl`, in natural order.

    A path that exists is never a pattern. Of a folder with several splits, `split` chooses one, `train` by default.

    Raises:
        BadInput: a folder or pattern has no file of rows, files of several kinds, or not that split.
    """
    if place.is_dir():
        return _in_folder(place, split)
    if not is_pattern(str(place)) or os.path.lexists(place):
        return DataFiles((place,))
    return _matching(place, split)


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """A key that sorts part-2 before part-10, folder by folder."""
    keys = []
    for part in path.parts:
        for piece in _NUMBERS.split(part):
            keys.append((0, int(piece), piece) if piece.isdecimal() else (1, 0, piece))
        keys.append((-1, 0, ""))
    return keys


def _matching(pattern: Path, split: str | None) -> DataFiles:
    base = pattern_base(pattern)
    rest = pattern.relative_to(base)
    matches = sorted(matches_below(base, rest), key=natural_order)
    found, chosen = _Found(), set[Path]()
    if "**" in rest.parts:  # it matches each file within a matched folder by itself
        matches = [each for each in matches if not each.is_dir()]
    for each in matches:
        if each.is_dir():
            inner = _in_folder(each, split)
            found.files += inner.files
            chosen.update(inner.files)
            found.left_out += inner.left_out
        elif each.name.startswith(_HIDDEN) or not _is_data(each):
            found.left_out.append((each, "as no file of rows"))
        else:
            found.files.append(each)
    _leave_out_beside(found)
    if not found.files:
        raise BadInput("matches no file of rows", _what_is_there(base, matches), file=pattern)
    plain = _Found([each for each in found.files if each not in chosen], found.left_out)
    if split and plain.files:
        _choose_split(base, plain, split)
    chosen.update(plain.files)
    return _settled(pattern, _Found([each for each in found.files if each in chosen], plain.left_out))


def _leave_out_beside(found: _Found) -> None:
    """Leaves out files such as dataset_info.json, unless a pattern matches nothing else."""
    rows = [each for each in found.files if not _BESIDE.fullmatch(each.name)]
    if rows:
        found.left_out += [(each, "as no file of rows") for each in found.files if each not in rows]
        found.files = rows


def _what_is_there(base: Path, matches: Sequence[Path]) -> str:
    kinds = f"known kinds: {', '.join(DATA_SUFFIXES)}, each also as .gz"
    if matches:
        return f"it matches {_names(matches)}; {kinds}"
    if not base.is_dir():
        return f"{base} does not exist: correct `dataset.path`; it is relative to the folder that dimba is run in"
    names = sorted((each for each in base.iterdir() if not each.name.startswith(_HIDDEN)), key=natural_order)
    return f"{base} holds {_names(names)}" if names else f"{base} is empty"


def _in_folder(folder: Path, split: str | None) -> DataFiles:
    if (folder / _SAVED_SPLITS).is_file():
        return _saved_dict(folder, split)
    if _is_saved(folder):
        own = read_json_object(folder / "state.json").get("_split")
        if split and own and own != split:
            raise _no_split(folder, split, [str(own)])
        if split and not own:
            require_split(folder, split)
        return DataFiles(tuple(_saved_files(folder)))
    if all((folder / name).is_file() for name in ("config.json", "tokenizer_config.json")):
        raise BadInput("holds a model, not rows", "give the folder of the data as `dataset.path`", file=folder)
    found = _Found()
    for each in sorted(_walk(folder, frozenset()), key=natural_order):
        is_rows = _is_data(each) and not _BESIDE.fullmatch(each.name)
        found.files += [each] if is_rows else []
        found.left_out += [] if is_rows else [(each, "as no file of rows")]
    if not found.files:
        raise BadInput(
            "holds no file of rows", _what_is_there(folder, [each for each, _ in found.left_out]), file=folder
        )
    _choose_split(folder, found, split)
    kinds = dict.fromkeys(_kind(each) for each in found.files)
    if len(kinds) > 1:
        first = next(iter(kinds))
        hint = f"choose with a pattern, such as `{folder}/**/*{first}`; or give a list of data sets"
        raise BadInput(f"holds files of several kinds: {', '.join(kinds)}", hint, file=folder)
    return _settled(folder, found)


def _settled(place: Path, found: _Found) -> DataFiles:
    """Without files that hold nothing, and each file once."""
    full = [each for each in found.files if _size(each) != 0]
    if not full:
        raise BadInput("no rows", f"every file is empty: {_names(found.files)}", file=place)
    empty = [(each, _EMPTY) for each in found.files if _size(each) == 0]
    once: dict[str, Path] = {}  # the file itself rather than a link to it, and of links the first one
    for each in full:
        real = os.path.realpath(each)
        if real not in once or real == str(each):
            once[real] = each
    twice = [(each, _TWICE) for each in full if once[os.path.realpath(each)] != each]
    return DataFiles(
        tuple(each for each in full if once[os.path.realpath(each)] == each), (*found.left_out, *empty, *twice)
    )


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None  # reading it reports why


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """The files below a folder that are not hidden; a link that leads back to a folder above ends there."""
    real = os.path.realpath(folder)
    if real in above:
        return
    if _is_saved(folder):
        yield from _saved_files(folder)
        return
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        cause = f"cannot be read: {error.strerror}"
        raise BadInput(cause, "check the path and its permissions", file=folder) from None
    for each in entries:
        if each.name.startswith(_HIDDEN):
            continue
        if each.is_dir():
            yield from _walk(each, above | {real})
        else:
            yield each


def _kind(file: Path) -> str:
    return Path(file.name.lower().removesuffix(".gz")).suffix


def _is_data(file: Path) -> bool:
    return _kind(file) in DATA_SUFFIXES


def _names(files: Iterable[Path]) -> str:
    names = [f"{each.name}/" if each.is_dir() else each.name for each in files]
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


# Splits.


def _choose_split(folder: Path, found: _Found, split: str | None) -> None:
    """Keeps the files of one split, if their names tell several."""
    by_split: dict[str, list[Path]] = {}
    for each in found.files:
        by_split.setdefault(_split_of(each.relative_to(folder)), []).append(each)
    if split is None and len(by_split) == 1:
        return
    wanted = split or "train"
    if wanted not in by_split:
        raise _no_split(folder, wanted, by_split)
    found.files = by_split.pop(wanted)
    found.left_out += [(file, f"of the split {name}") for name, files in by_split.items() for file in files]


def require_split(place: Path, split: str) -> None:
    """Refuses a split that one set of rows does not have, by its name; one that tells none may lie in `test/`."""
    own, above = _told(Path(place.name)), place.parent.name.lower()
    if split != own if own else split != "train" and above not in _SPLITS.get(split, ()):
        raise BadInput(f"has no split `{split}`", _WITHOUT, file=place)


def _split_of(file: Path) -> str:
    """The split that a name tells; `train` for a name that tells none."""
    return _told(file) or "train"


def _told(file: Path) -> str:
    words = _WORD.findall(str(file).lower().removesuffix(".gz").removesuffix(_kind(file)))
    return next((name for word in words for name, known in _SPLITS.items() if word in known), "")


def _no_split(place: Path, wanted: str, known: Collection[str]) -> BadInput:
    hint = f"choose one with `dataset.split`: {', '.join(sorted(known))}"
    return BadInput(f"has no split `{wanted}`", hint if len(known) > 1 else _WITHOUT, file=place)


# Folders of `datasets.save_to_disk`.


def _is_saved(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _SAVED)


def _saved_dict(folder: Path, split: str | None) -> DataFiles:
    chosen, names = _saved_split(folder, split)
    others = tuple((folder / name, f"of the split {name}") for name in names if name != chosen)
    return DataFiles(_in_folder(folder / chosen, None).files, others)


def _saved_split(folder: Path, split: str | None) -> tuple[str, list[str]]:
    """The split to read, and all that the folder has."""
    names = [str(each) for each in read_json_object(folder / _SAVED_SPLITS).get("splits") or []]
    only = names[0] if len(names) == 1 else "train"
    if (split or only) not in names:
        raise _no_split(folder, split or "train", names)
    return split or only, names


def _saved_files(folder: Path) -> list[Path]:
    """The files of a saved data set in its own order."""
    state = read_json_object(folder / "state.json")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        hint = "load it with `datasets`, call `flatten_indices()` and save it again"
        raise BadInput("was saved with a selection of its rows, by an old version of datasets", hint, file=folder)
    names = [each.get("filename") for each in state.get("_data_files") or [] if isinstance(each, dict)]
    files = [folder / name for name in names if isinstance(name, str) and Path(name).name == name]
    if not files:
        raise BadInput("its state.json names no files", "save it again with `save_to_disk`", file=folder)
    return files


__all__ = ["DataFiles", "find_files", "natural_order", "pattern_base", "require_split"]
