"""The script for a cluster: what the scheduler is told, by what the job is contained, and that bash reads it."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dimba.common.errors import BadInput, DimbaError
from dimba.host.facts import GpuFacts
from dimba.host.named_paths import look_at_named_paths
from dimba.jobs.trust import trust_requirements_of
from dimba.plan.build import make_plan
from dimba.plan.model import LaunchPlan
from dimba.plan.slurm import cluster_cards, cluster_image, cluster_nodes, slurm_script, slurm_seconds
from dimba.plan.slurm_array import array_script
from dimba.spec import SlurmSite, load_site, parse_spec
from tests.conftest import Dimba
from tests.plan.pure import no_disk
from tests.plan.test_plan import FACTS, SPARSE

CONTAINERS = ("none", "docker", "podman", "apptainer", "pyxis")
FULL = "partition: gpu, account: ml, qos: high, time: 2-12, cpus: 6, extra: ['--constraint=a100&ib', --exclusive]"


RUNS = Path("/work/it's 100% mine/runs")


def script(
    slurm: str = "", resources: str = "gpus: 2, nodes: 2", site: SlurmSite | None = None, added: str = ""
) -> str:
    return slurm_script(attempt(slurm, resources, site, added))


def attempt(
    slurm: str = "",
    resources: str = "gpus: 2, nodes: 2",
    site: SlurmSite | None = None,
    added: str = "",
    run: str = "run-1",
) -> LaunchPlan:
    text = f"{SPARSE}runner: slurm\nresources: {{{resources}}}\nslurm: {{{slurm}}}\n{added}"
    spec, site = parse_spec(text.encode(), source="job.yaml").spec, site or SlurmSite()
    named = look_at_named_paths(spec, FACTS.folder)
    facts = replace(FACTS, named=named, image=cluster_image(spec, site)).on(cluster_nodes(spec, site))
    facts = replace(facts, trainer=replace(facts.trainer, flags=facts.trainer.flags | {"--resume-from-checkpoint"}))
    with no_disk():
        plan = make_plan(spec, facts)
    return plan.for_attempt(run, RUNS / run / "attempts" / "1")


def options(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("resources", ["gpus: 2, nodes: 2", "gpus: none"])
def test_bash_reads_every_script_and_shellcheck_has_nothing_to_say(container: str, resources: str, tmp_path: Path):
    path = tmp_path / "job.sh"
    path.write_text(script(f"container: {container}, image: site/dimba:1, {FULL}", resources), encoding="utf-8")
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", "--severity=warning", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_bash_reads_an_array_and_the_script_of_a_task_which_names_itself_and_never_the_whole_array(tmp_path: Path):
    plans = [attempt(FULL, run=f"sweep 1-{number}") for number in (1, 2, 3)]
    whole = array_script(plans, "sweep 1", 2)
    task = slurm_script(plans[1], in_array=True)
    for text in (whole, task):
        (tmp_path / "job.sh").write_text(text, encoding="utf-8")
        subprocess.run(["bash", "-n", tmp_path / "job.sh"], check=True)
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", "--severity=warning", tmp_path / "job.sh"], check=True)
    told = options(whole)
    assert "--array=1-3%2" in told and "--comment=dimba:sweep 1" in told and "--partition=gpu" in told
    (log,) = (each for each in told if each.startswith("--output="))
    assert "100%% mine" in log and "sweep 1-%a/attempts/1/log.txt" in log
    (last,) = (line for line in whole.splitlines() if line.startswith("exec "))
    printed = ["bash", "-c", last.replace("exec bash", "printf %s")]
    named = subprocess.run(printed, env={"SLURM_ARRAY_TASK_ID": "2"}, capture_output=True, check=True)
    assert named.stdout.decode() == str(RUNS / "sweep 1-2" / "attempts" / "1" / "job.sh")
    of_task = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    assert f'scontrol requeue "{of_task}"' in task and f'--signal=USR1 "{of_task}"' in task
    assert '"$SLURM_JOB_ID"' not in task and "--array=1-3\n" in array_script(plans, "sweep 1", 0)


def test_tasks_of_an_array_that_ask_for_other_resources_are_refused():
    plans = [attempt(resources=resources, run=f"s-{resources[-1]}") for resources in ("gpus: 1", "gpus: 2")]
    with pytest.raises(BadInput, match=r"run 2 asks for other resources .*gpus-per-node"):
        array_script(plans, "s", 0)


def test_what_the_spec_asks_for_is_what_the_scheduler_is_told():
    told = options(script(FULL, "gpus: 2, nodes: 4, memory: 64g"))
    assert told[2:11] == [
        "--partition=gpu",
        "--account=ml",
        "--qos=high",
        "--time=2-12",
        "--nodes=4",
        "--ntasks-per-node=1",
        "--cpus-per-task=12",
        "--gpus-per-node=2",
        "--mem=65536M",
    ]
    assert told[-2:] == ["--constraint=a100&ib", "--exclusive"], "what is further comes last, and counts"
    assert {"--comment=dimba:run-1", "--open-mode=append", "--requeue", "--signal=B:USR1@120"} <= set(told)


def test_a_short_time_limit_is_not_all_warning():
    assert "--signal=B:USR1@30" in options(script("time: 1"))


def test_paths_are_quoted_and_no_pattern_of_slurms():
    text = script()
    assert """--output='/work/it'"'"'s 100%% mine/runs/run-1/attempts/1/log.txt'""" in options(text)


@pytest.mark.parametrize(
    ("container", "begins"),
    [
        ("none", 'exec env "DIMBA_NODE_RANK=$SLURM_NODEID" "$@"'),
        ("docker", "exec docker run --rm --init --network=host --user 1000:1000 \\\n    --cap-drop=ALL"),
        ("podman", "exec podman run --rm --init --network=host --user 1000:1000"),
        ("apptainer", "exec apptainer exec \\\n    --nv"),
    ],
)
def test_each_container_is_started_on_each_node(container: str, begins: str):
    text = script(f"container: {container}, image: site/dimba:1")
    assert begins in text
    assert container == "none" or "/work/base:/work/base:ro" in text
    assert ("/opt/dimba/scripts" in text) == (container != "none")


def test_pyxis_is_told_by_srun():
    text = script("container: pyxis, image: site/dimba:1")
    assert "--container-image=site/dimba:1" in text and "/work/out:/work/out:rw" in text


def test_a_sif_file_is_taken_as_it_is_and_a_reference_from_a_registry():
    assert "docker://site/dimba:1" in script("container: apptainer, image: site/dimba:1")
    assert "docker://" not in script("container: apptainer, image: /shared/dimba.sif")


def test_the_site_says_what_the_spec_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_site() == SlurmSite()
    (tmp_path / "dimba").mkdir()
    file = tmp_path / "dimba" / "slurm.yaml"
    file.write_text("partition: gpu\naccount: ml\nextra: [--exclusive]\ngpus_per_node: 8\n", encoding="utf-8")
    told = options(script("account: mine, extra: [--nice=5]", "gpus: all", load_site()))
    assert {"--partition=gpu", "--account=mine", "--gpus-per-node=8"} <= set(told)
    assert told[-2:] == ["--exclusive", "--nice=5"]
    file.write_text("partition: gpu\npartitoin: x\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"slurm.yaml:2: partitoin"):
        load_site()


@pytest.mark.parametrize(
    ("slurm", "resources", "added", "said"),
    [
        ("", "gpus: all", "", "gpus_per_node"),
        ("", "gpus: [0, 1]", "", "the number of GPUs"),
        ("container: docker", "gpus: 1", "", "no image is named"),
        ("", "gpus: 1", "container: {mounts: [/data]}\n", "apptainer"),
        ("", "gpus: 1", "container: {network: none}\n", "network: auto"),
    ],
)
def test_what_cannot_be_handed_over_is_refused_with_what_to_write(slurm: str, resources: str, added: str, said: str):
    with pytest.raises(DimbaError) as caught:
        script(slurm, resources, added=added)
    assert said in str(caught.value) and caught.value.exit_status == 2


@pytest.mark.parametrize(
    "wrong",
    ["time: soon", "partition: 'a b'", "extra: [exclusive]", "extra: [--output=x]", 'extra: ["--a=b\\n#SBATCH"]'],
)
def test_settings_that_are_none_are_refused(wrong: str):
    with pytest.raises(BadInput, match="slurm"):
        script(wrong)


def test_times_are_read_as_sbatch_reads_them():
    times = {"90": 5400, "90:30": 5430, "2:30:00": 9000, "1-0": 86400, "1-12:30": 131400, "0-0:0:5": 5}
    assert {time: slurm_seconds(time) for time in times} == times


def test_a_strangers_words_to_the_scheduler_and_their_image_are_asked_about():
    text = f"{SPARSE}runner: slurm\nslurm: {{container: docker, image: theirs/x:1, extra: [--uid=0]}}\n"
    requirements = trust_requirements_of(parse_spec(text.encode(), source="job.yaml"), Path("/work"))
    assert {"slurm.image", "slurm.extra"} <= {each.key for each in requirements}


def test_the_cards_are_the_nodes_own_not_this_machines():
    spec = parse_spec(f"{SPARSE}runner: slurm\nresources: {{gpus: 4}}\n".encode(), source="x").spec
    assert [gpu.id for gpu in cluster_cards(spec, SlurmSite()).gpus] == ["0", "1", "2", "3"]
    assert cluster_cards(
        spec.model_copy(update={"resources": spec.resources.model_copy(update={"gpus": "none"})}), SlurmSite()
    ) == GpuFacts(source="Slurm")


def test_the_plan_prints_the_script_anywhere_and_a_launch_needs_slurm(job: Path, dimba: Dimba, tmp_path: Path):
    (tmp_path / "bin").mkdir()
    away = {"PATH": str(tmp_path / "bin")}
    shown = dimba("plan", "job.yaml", "--runner", "slurm", cwd=job, **away)
    assert shown.returncode == 0 and shown.stdout.startswith("#!/bin/bash\n"), shown.stderr
    done = dimba("launch", "job.yaml", "--runner", "slurm", cwd=job, **away)
    assert done.returncode == 4 and "not on this machine: sbatch" in done.stderr
