"""The spec: accepted values, defaults, and the error for each mistake."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimba.common.errors import BadInput
from dimba.spec import json_schema, load_spec, parse_spec, spec_yaml

SPARSE = "version: 1\nmode: sft\nbase_checkpoint: base\ndataset: {path: data.jsonl}\nmethod: lora\n"
REPOSITORY = Path(__file__).parents[2]


def parse(text: str, *overrides: str):
    return parse_spec(text.encode(), source="job.yaml", overrides=overrides)


def complaint(text: str, *overrides: str) -> str:
    with pytest.raises(BadInput) as raised:
        parse(text, *overrides)
    assert raised.value.exit_status == 2
    return str(raised.value)


def test_a_sparse_spec_is_completed():
    spec = parse(SPARSE).spec
    assert (spec.name, spec.output_dir) == ("sft-lora", "checkpoints/finetune_sft_lora")
    assert (spec.training.learning_rate, spec.training.epochs, spec.lora.r) == (2e-4, 3, 8)
    assert (spec.resources.gpus, spec.runner, spec.training.seed) == ("all", "auto", 42)


@pytest.mark.parametrize(
    ("mode", "method", "rate"), [("sft", "full", 2e-5), ("grpo", "qlora", 1e-5), ("grpo", "full", 1e-6)]
)
def test_the_learning_rate_defaults_by_mode_and_method(mode: str, method: str, rate: float):
    text = SPARSE.replace("sft", mode).replace("lora", method)
    assert parse(text).spec.training.learning_rate == rate


def test_scalars_follow_yaml_1_2():
    spec = parse(SPARSE.replace("data.jsonl", "no") + "training: {learning_rate: 2e-4, seed: 010}\nname: 'yes'\n").spec
    assert spec.dataset.path == "no"
    assert spec.training.learning_rate == 2e-4
    assert spec.training.seed == 10
    assert spec.name == "yes"


def test_sizes_are_read_as_bytes():
    assert parse(SPARSE + "resources: {shm_size: 2g, memory: 512 MiB}\n").spec.resources.shm_size == 2 << 30


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("mehtod: lora\n", "job.yaml:6: mehtod: unknown key; did you mean `method`?"),
        ("method: full\n", "job.yaml:6: method: given twice; the first is on line 5"),
        ("lora:\n  r: 8\n  alfa: 2\n", "job.yaml:8: lora.alfa: unknown key; did you mean `alpha`?"),
        ('lora: {r: "8"}\n', "job.yaml:6: lora.r: expected an integer, not the text `8`"),
        ("training: {batch_size: true}\n", "training.batch_size: expected an integer or `auto`, not `true`"),
        ("training:\n  batch_size: atuo\n", "job.yaml:7: training.batch_size: expected an integer or `auto`"),
        ("training: {seed: auto}\n", "job.yaml:6: training.seed: expected an integer, not the text `auto`"),
        ("training: {max_steps: 0}\n", "training.max_steps: expected greater than or equal to 1"),
        ("training: {learning_rate: .inf}\n", "training.learning_rate: expected a finite number"),
        ("lora: {target_modules: []}\n", "lora.target_modules: expected `all-linear`, a list of names, or"),
        ("lora: {target_modules: null}\n", "lora.target_modules: expected `all-linear`, a list of names, or"),
        ("lora: {init: kaiming}\n", "lora.init: expected true, false, `gaussian` or `orthogonal`, not the text"),
        ("training: []\n", "job.yaml:6: training: expected a section of keys, not a list"),
        ("runner: podman\n", "job.yaml:6: runner: `podman` is not one of auto, docker, process or slurm"),
        ("resources: {gpus: some}\n", "resources.gpus: expected all, none, a number, or a list"),
        ("resources: {gpus: [0, 0]}\n", "resources.gpus: names a GPU twice"),
        ("resources: {shm_size: big}\n", "resources.shm_size: expected a size such as 512m or 8g"),
        ("name: my job\n", "name: `my job`: letters, digits"),
        ("trainer_args: {x: null}\n", "job.yaml:6: trainer_args.x:"),
        ("lora: &a {r: 8}\nresources: *a\n", "alias `*a` is refused"),
        ("name: !!python/object:os.system x\n", "name: tag"),
        ("container: {env: [3]}\n", "container.env[0]: expected a string, not `3`"),
        ("container: {env: ['A B=1']}\n", "is not a variable's name"),
        ("name: [\n", "not valid YAML"),
    ],
)
def test_a_mistake_is_reported_with_its_line_and_key(added: str, expected: str):
    assert expected in complaint(SPARSE + added)


@pytest.mark.parametrize("name", ["data/x", "./x", "x.jsonl", "owner/x.csv.gz", "~/x"])
def test_a_file_as_the_name_of_a_data_set_is_an_error(name: str):
    text = complaint(SPARSE.replace("{path: data.jsonl}", f"{{name: {name}}}"))
    assert "job.yaml:4: dataset.name: " in text and f"`{name}` is a file: use `dataset.path`" in text


def test_all_mistakes_are_reported_at_once():
    text = complaint("version: 2\nmode: kto\ndataset: {}\nmethod: lora\nfoo: 1\n")
    assert len(text.splitlines()) == 5
    assert "job.yaml:1: base_checkpoint: required, and not given" in text


@pytest.mark.parametrize("text", ["", "- 1\n", "just text\n", "null\n"])
def test_a_document_that_is_not_a_mapping_is_an_error(text: str):
    assert "expected a mapping of keys" in complaint(text)


def test_a_file_of_more_than_a_mebibyte_is_refused():
    assert "larger than 1 MiB" in complaint(SPARSE + "#" * (1 << 20))


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 9000, "1e" + "9" * 500])
def test_the_error_for_an_endless_number_is_short(number: str):
    text = complaint(SPARSE + f"training: {{max_length: {number}}}\n")
    assert "job.yaml:6: training.max_length: expected an integer" in text and len(text) < 200


@pytest.mark.parametrize("written", ['"a\\0b"', '"\\ud800"', '"a\\nb"', '"\\e[2J"', "x" * 300])
def test_a_text_that_cannot_be_a_path_is_an_error(written: str):
    assert "job.yaml:6: output_dir: " in complaint(SPARSE.replace("output_dir: out\n", "") + f"output_dir: {written}\n")


def test_deep_nesting_is_refused_without_a_crash():
    assert "job.yaml:" in complaint(SPARSE + "name: " + "[" * 3000 + "]" * 3000)


@pytest.mark.parametrize(
    "added",
    [
        "container: {env: ['WANDB_API_KEY=abcdef']}\n",
        "trainer_args: {token: hf_abcdefghijklmnopqrstuvwx}\n",
        "container: {env: ['X=sk-abcdefghijklmnop1234']}\n",
        "container: {env: ['MY_PASSWORD=abcdef']}\n",
        "trainer_args: {hub-token: abcdefgh}\n",
        "trainer_args: {wandb_api_key: abcdefgh}\n",
        "trainer_args: {db-password: abcdef}\n",
        "trainer_args: {env: ['A=1', 'WANDB_API_KEY=abcdefgh']}\n",
        "trainer_args: {note: 'use hf_abcdefghijklmnopqrstuvwx please'}\n",
        "trainer_args: {hf_abcdefghijklmnopqrstuvwx: true}\n",
        "trainer_args: {api: 'http://me:abcdef@host/path'}\n",
        "trainer_args: {jwt: eyJabcdefghijkl.eyJabcdefghijkl.x}\n",
        "container: {image: 'https://me:abcdef@registry/image'}\n",
        "name: hf_abcdefghijklmnopqrstuvwx\n",
    ],
)
def test_a_written_secret_is_refused_and_not_repeated(added: str):
    text = complaint(SPARSE + added)
    assert "taken from the host at launch" in text
    assert "abcdef" not in text


@pytest.mark.parametrize("key", ["trainer_args.token", "container.base_image", "base_checkpoint", "mode"])
def test_a_secret_on_the_command_line_is_refused_too(key: str):
    text = complaint(SPARSE, f"{key}=hf_abcdefghijklmnopqrstuvwx")
    assert f"--set {key}: " in text and "abcdef" not in text


@pytest.mark.parametrize(
    "added",
    [
        "container: {env: [TOKENIZERS_PARALLELISM=false, HF_HUB_DISABLE_IMPLICIT_TOKEN=1, VLLM_MAX_TOKENS=4096]}\n",
        "trainer_args: {eos-token: '<|im_end|>', text-key: body, max-new-tokens: '512', key: a, token: b}\n",
        "trainer_args: {hub-token: true, revision: 0123456789abcdef0123456789abcdef01234567}\n",
        "trainer_args: {path: models/sk-learn-tutorial-model, reward: 'regex:KEY=1'}\n",
        "container: {env: [WANDB_API_KEY, 'HF_ENDPOINT=https://mirror:8080/x@y']}\n",
    ],
)
def test_a_value_that_only_resembles_a_secret_is_accepted(added: str):
    parse(SPARSE + added)


def test_a_named_secret_is_accepted():
    assert parse(SPARSE + "container: {env: [HF_TOKEN]}\n").spec.container.env == ["HF_TOKEN"]


def test_overrides_are_yaml_and_checked_like_the_file():
    spec = parse(SPARSE, "training.max_steps=7", "resources.gpus=[0, 1]", "name=again").spec
    assert (spec.training.max_steps, spec.resources.gpus, spec.name) == (7, [0, 1], "again")
    assert complaint(SPARSE, "training.max_stepz=7").startswith("--set training.max_stepz: unknown key")
    assert complaint(SPARSE, "traning.max_steps=3") == "--set traning: unknown key; did you mean `training`?"
    assert "job.yaml:6: traning: unknown key" in complaint(SPARSE + "traning: {}\n", "traning.max_steps=3")
    assert "expected key=value" in complaint(SPARSE, "nonsense")
    assert "`method` is not a section" in complaint(SPARSE, "method.x=1")


def test_every_shipped_job_loads_and_names_its_schema():
    """Those in git: a user writes specs of their own into the same folder."""
    listed = subprocess.run(
        ["git", "ls-files", "jobs/*.yaml"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    jobs = [REPOSITORY / name for name in listed.stdout.splitlines()]
    assert len(jobs) >= 4
    for path in jobs:
        load_spec(path)
        assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=./job.schema.json\n")


def test_the_shipped_schema_is_the_current_one():
    import json

    shipped = json.loads((REPOSITORY / "jobs" / "job.schema.json").read_text(encoding="utf-8"))
    assert shipped == json_schema(), "run `make schema`"


def test_a_written_spec_reads_back_the_same():
    values = {
        "version": 1,
        "mode": "sft",
        "base_checkpoint": "a: b #c",
        "dataset": {"path": "no"},
        "method": "full",
        "training": {"learning_rate": 3e-3},
    }
    spec = parse(spec_yaml(values, "job.schema.json")).spec
    assert (spec.base_checkpoint, spec.dataset.path, spec.training.learning_rate) == ("a: b #c", "no", 3e-3)


KEYS = st.sampled_from(["version", "mode", "dataset", "lora", "training", "resources", "gpus", "container", "x", "env"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_any_other_document_is_an_error_and_never_a_crash(value: dict[str, object]):
    import json

    complaint(json.dumps(value))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_an_error_and_never_a_crash(data: bytes):
    with pytest.raises(BadInput):
        parse_spec(data, source="job.yaml")


def test_a_wrong_item_of_a_list_is_reported_alone():
    text = complaint(SPARSE + "lora: {target_modules: [q_proj, 3]}\n")
    assert text == "job.yaml:6: lora.target_modules[1]: expected a string, not `3`"


def test_a_section_in_trainer_args_is_answered_with_its_json_text():
    text = SPARSE + "trainer_args:\n  chat-template-kwargs: {enable_thinking: false}\n"
    assert """give it as JSON text, '{"enable_thinking": false}'""" in complaint(text)
