"""A trained model of this machine, found by a run or a folder, and where the code that loads it runs."""

import json
from collections.abc import Sequence
from contextlib import chdir, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from dimba.common.checkpoint.adapter import CONFIG as ADAPTER
from dimba.common.checkpoints import newest_checkpoint
from dimba.common.contract import OUTPUT_FILE, RUN_FILE, absolute, read_json_object
from dimba.common.errors import BadInput
from dimba.common.trained import TrainedModel, adapter_base, gguf_in
from dimba.host.build_context import GGUF
from dimba.host.facts import HostFacts
from dimba.host.fingerprint import fingerprint
from dimba.host.probe import runs_folder
from dimba.jobs.context import JobContext, Policy, gather
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.reconcile import reconciled
from dimba.jobs.resume import recorded_spec
from dimba.objectives.families import family_of
from dimba.objectives.family import Family
from dimba.objectives.registry import OBJECTIVES
from dimba.options.diffusion_table import MASK_TOKEN
from dimba.plan.model import Mount
from dimba.plan.mounts import same_place
from dimba.records import ACTIVE, RunFolder, RunRecord, find_run
from dimba.runners.protocol import Runner
from dimba.runners.registry import find_runner
from dimba.spec import JobSpec, LoadedSpec, parse_spec

_NO_DATA = "none/none"  # a Hub id in the spec of a folder without a run: its data are never read


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """The command line's part: a runner, GPUs as in a spec, and a base in place of the recorded ones."""

    runner: str | None = None
    gpus: str | None = None
    base: str | None = None
    trust_remote_code: bool = False
    allow_cpu: bool = False

    @property
    def overrides(self) -> list[str]:
        """The keys of a spec that it overrides."""
        values = {"runner": self.runner, "resources.gpus": self.gpus}
        base = str(absolute(self.base)) if self.base and absolute(self.base).exists() else self.base
        return [f"{key}={value}" for key, value in ({**values, "base_checkpoint": base}).items() if value is not None]


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A trained model, and the context of the run that trained it, or of a minimal spec for a folder without one."""

    trained: TrainedModel
    context: JobContext
    request: ModelRequest = field(default_factory=ModelRequest)
    run: RunFolder | None = None
    record: RunRecord | None = None

    @property
    def spec(self) -> JobSpec:
        """The run's spec."""
        return self.context.spec

    @property
    def facts(self) -> HostFacts:
        """The machine's facts."""
        return self.context.facts

    @property
    def runner(self) -> Runner:
        """The runner whose machine or image loads the model."""
        return self.context.runner

    @property
    def folder(self) -> Path:
        """The folder of the model or the adapter."""
        return Path(self.trained.folder)

    @property
    def name(self) -> str:
        """The run's id, or the folder's name; a GGUF file's."""
        if self.trained.gguf:
            return Path(self.trained.gguf).stem
        return self.record.id if self.record else self.folder.name

    @property
    def family(self) -> Family:
        """The model's family; that of causal models for one that is only on the Hub."""
        config = {} if self.trained.is_adapter else read_json_object(self.folder / "config.json")
        return family_of(config) if config else self.facts.checkpoint.family

    @property
    def image_extra(self) -> str | None:
        """What the image needs beside what the job itself does."""
        return GGUF if self.trained.gguf else None

    @property
    def is_local(self) -> bool:
        """Whether everything that is loaded is on this machine."""
        return self.folder.is_absolute() and (not self.trained.is_adapter or self.facts.checkpoint.local)

    @property
    def weight_bytes(self) -> int:
        """The size of the weights that are loaded, as they are stored; 0 for a base on the Hub."""
        own = sum(file.stat().st_size for file in self.folder.glob("*.safetensors"))
        return own + ((self.facts.checkpoint.weight_bytes or 0) if self.trained.is_adapter else 0)

    def of_base(self) -> "ModelSource":
        """The base as it was before training."""
        reference = self.facts.checkpoint.reference if self.trained.is_adapter or self.record else ""
        if not reference:
            raise BadInput(f"{self.folder} does not name its base", "give the base's folder in place of `base`")
        trained = replace(self.trained, folder=reference, base="", gguf="", four_bit=False)
        return replace(self, trained=trained)

    def mounts(self, *writable: Path) -> tuple[Mount, ...]:
        """The model, its base and links out of both read-only; the Hugging Face cache and `writable` writable."""
        places = [self.folder] if self.folder.is_absolute() else []
        places += [Path(self.facts.checkpoint.reference)] if self.trained.is_adapter and self.is_local else []
        read = [same_place(each, read_only=True) for each in places]
        links = self.facts.checkpoint.linked_files  # of the base, which is what a folder without a run holds
        linked = [Mount(source=str(real), target=str(seen), read_only=True) for seen, real in links]
        written = [same_place(each, read_only=False) for each in (self.facts.cache, *writable)]
        return tuple({each.target: each for each in (*read, *linked, *written)}.values())

    def prepared(self, reporter: Reporter, extra: str | None = None) -> "ModelSource":
        """The same model with its image, built or pulled if missing; `extra`: one of `IMAGE_EXTRAS`.

        Raises:
            EngineFailed: the image cannot be built.
            HostCannot: the disk is full.
        """
        image = self.runner.prepare(self.spec, reporter.progress, extra=extra)
        reporter.ended()
        return replace(self, context=replace(self.context, facts=replace(self.facts, image=image)))


def find_model(name: str, request: ModelRequest, reporter: Reporter) -> ModelSource:
    """The model that a run has saved, or that lies in a folder.

    Raises:
        BadInput: there is none, its run is not done, or its base is gone or has changed.
    """
    folder = absolute(name)
    if file := gguf_in(folder):
        return _of_gguf(file, request, reporter)
    if (folder / RUN_FILE).is_file():
        return _of_run(RunFolder(folder, folder.stat().st_uid, folder.stat().st_gid), request, reporter)
    if _holds_model(folder):
        return _of_folder(folder, request, reporter)
    if folder.is_dir():
        hint = "give a run's id, or a folder with config.json or adapter_config.json"
        raise BadInput(f"{folder} holds neither a model nor an adapter", hint)
    return _of_run(find_run(runs_folder(Path.cwd()), name), request, reporter)


def _of_gguf(file: Path, request: ModelRequest, reporter: Reporter) -> ModelSource:
    place = next((each for each in (file.parent, file.parent.parent) if _holds_model(each)), None)
    if place is None:
        hint = "give a folder that `dimba export --gguf` wrote, where it wrote it"
        raise BadInput("has no model beside or above it, whose tokenizer it needs", hint, file=file)
    source = _of_folder(place, request, reporter)
    return replace(source, trained=replace(source.trained, gguf=str(file)))


def _holds_model(folder: Path) -> bool:
    has_weights = any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    return has_weights and ((folder / ADAPTER).is_file() or (folder / "config.json").is_file())


def _of_run(run: RunFolder, request: ModelRequest, reporter: Reporter) -> ModelSource:
    record = reconciled(run)
    output = Path(record.output_dir)
    if record.status in ACTIVE or not _holds_model(output):
        raise _without_model(record, output)
    return _source(output, (run, record), recorded_spec(run, record, request.overrides), request, reporter)


def _without_model(record: RunRecord, output: Path) -> BadInput:
    newest = newest_checkpoint(output)
    way = f"`{newest}` is its newest complete checkpoint: give that folder in place of the run" if newest else ""
    if record.status in ACTIVE:
        return BadInput(f"run {record.id} is {record.status}", way or f"`dimba watch {record.id}` shows its progress")
    if record.status == "succeeded":
        return BadInput(f"the model of run {record.id} is gone: {output}", way or "give the folder it was moved to")
    again = f"`dimba resume {record.id}` finishes it"
    return BadInput(f"run {record.id} {record.status} before it saved a model", f"{again}; or {way}" if way else again)


def _of_folder(folder: Path, request: ModelRequest, reporter: Reporter) -> ModelSource:
    run = _run_of(folder)
    if run is None:
        return _source(folder, None, _spec_of_folder(folder, request.overrides), request, reporter)
    record = run.record()
    return _source(folder, (run, record), recorded_spec(run, record, request.overrides), request, reporter)


def _run_of(folder: Path) -> RunFolder | None:
    """The run that wrote a folder, or the folder above it as of a checkpoint or an export, if its record is here."""
    for place in (folder, folder.parent):
        named = read_json_object(place / OUTPUT_FILE).get("run")
        if isinstance(named, str) and (Path(named) / RUN_FILE).is_file():
            found = RunFolder(Path(named), Path(named).stat().st_uid, Path(named).stat().st_gid)
            return found if absolute(found.record().output_dir) == place else None
    return None


def _spec_of_folder(folder: Path, overrides: Sequence[str]) -> LoadedSpec:
    base = adapter_base(folder)
    named_base = any(each.startswith("base_checkpoint=") for each in overrides)
    if base == "" and not named_base:
        raise BadInput(f"{folder / ADAPTER} does not name its base", "give the base with `--base`")
    value = {
        "version": 1,
        "mode": next(iter(OBJECTIVES)),  # any: nothing is trained
        "method": "full" if base is None else "lora",
        "base_checkpoint": base or str(folder),
        "dataset": {"name": _NO_DATA},
        "output_dir": str(folder),
    }
    return parse_spec(json.dumps(value).encode(), source=str(folder), overrides=overrides)


def _source(
    folder: Path,
    origin: tuple[RunFolder, RunRecord] | None,
    loaded: LoadedSpec,
    request: ModelRequest,
    reporter: Reporter,
) -> ModelSource:
    run, record = origin or (None, None)
    policy = Policy(asks="none", reads_data=False, trusts_spec=True)
    with chdir(record.folder) if record and Path(record.folder).is_dir() else nullcontext():
        context = gather(loaded, find_runner(loaded.spec.runner), policy)
    trained = _trained(folder, context, request)
    if trained.is_adapter:
        _check_base(context.facts, record, request, reporter)
    return ModelSource(trained=trained, context=context, request=request, run=run, record=record)


def _trained(folder: Path, context: JobContext, request: ModelRequest) -> TrainedModel:
    is_adapter, flags = adapter_base(folder) is not None, context.spec.trainer_args
    texts = {name: flags.get(name.replace("_", "-")) for name in ("chat_template_kwargs", "template_date")}
    return TrainedModel(
        folder=str(folder),
        base=context.facts.checkpoint.reference if is_adapter else "",
        four_bit=is_adapter and context.spec.method == "qlora",
        trust_remote_code=request.trust_remote_code or flags.get("trust-remote-code") is True,
        allow_pickle=flags.get("allow-pickle") is True,
        mask_token=str(flags[MASK_TOKEN.name]) if flags.get(MASK_TOKEN.name) is not None else None,
        control_tokens=str(flags.get("control-tokens") or "text"),
        **{name: str(value) for name, value in texts.items() if value is not None},
    )


def _check_base(facts: HostFacts, record: RunRecord | None, request: ModelRequest, reporter: Reporter) -> None:
    base = facts.checkpoint
    if base.problem:
        raise BadInput(f"the base: {base.reference} {base.problem}", "restore it, or give its new place with `--base`")
    if not base.local or not record or not (record.base_hash or "").startswith("sha256:"):
        return
    digest = fingerprint(Path(base.reference), lambda done, of: reporter.progress("hashing the base", done, of))
    reporter.ended()
    if digest is None or record.base_hash == f"sha256:{digest}":
        return
    changed = f"{base.reference} is not the base that run {record.id} was trained on"
    if request.base is None:
        raise BadInput(f"{changed}: its files have changed", "restore them, or give the base with `--base`")
    reporter.note(f"{changed}: the adapter is used on it because of `--base`")
