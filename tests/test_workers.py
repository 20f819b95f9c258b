"""Runs side by side on Ray: the same records as one by one, whoever dies; one line where something is not there."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from smoke import FILE, SMOKE

from mmalib import plan
from mmalib.plan import of_kind
from mmalib.profiles import load_profile
from mmalib.records import lock, machine
from mmalib.studies import workers
from mmalib.studies.study import Study

# Ray's own names: a busy machine is slow and not broken, and workers are to be no nicer than the test.
os.environ |= {"RAY_raylet_start_wait_time_s": "300", "RAY_worker_niceness": "0"}
ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
from ray.cluster_utils import Cluster  # noqa: E402

WAIT = 300  # seconds, for whatever a test waits for


@pytest.fixture
def profile(tiny_backbone):
    folder = str(tiny_backbone)
    return replace(
        SMOKE, name="tiny", backbones=(folder,), teacher=folder, students=(folder,), seeds=(1, 2), pruning_seeds=(1,),
        train_sentences=200, epochs=5, learning_rate=3e-3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    """The baselines made in this process on one thread, once for every profile that is asked for."""
    made = {}

    def records(profile):
        if profile not in made:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            study = Study.open(profile, tmp_path_factory.mktemp("one"), "sample")
            made[profile] = [study.make(run) for run in study.runs(kind="baseline")]
            torch.set_num_threads(threads)
        return made[profile]

    return records


@pytest.fixture(autouse=True)
def no_ray_is_left():
    yield
    ray.shutdown()


def same(records, others):
    for one, other in zip(records, others, strict=True):
        assert one["run"] == other["run"] and one["scores"] == other["scores"]
        assert one["history"]["dev_f1"] == other["history"]["dev_f1"]


def holder(study, run):
    """The process that makes a run, as soon as it has left a checkpoint."""
    deadline = time.monotonic() + WAIT
    unfinished = study.home / "unfinished" / f"{run.name}-{run.digest}"
    while time.monotonic() < deadline:
        if list(unfinished.glob("checkpoint-*/trainer_state.json")):
            found = re.match(r"pid (\d+)", (study.home / "locks" / f"{run.name}.lock").read_text())
            if found:
                return int(found[1])
        time.sleep(0.002)
    pytest.fail(f"{run.name} left no checkpoint in time")


def test_two_nodes_make_the_same_records_as_one_process(profile, one_by_one, tmp_path, monkeypatch, capsys):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
    try:
        cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        monkeypatch.setenv(workers.CLUSTER, cluster.address)
        study = Study.open(profile, tmp_path, "sample")
        made = study.make_all(study.runs(kind="baseline"))
    finally:
        cluster.shutdown()
    same(made, one_by_one(profile))
    assert {record["machine"]["threads"] for record in made} == {1}
    lines = [line for line in capsys.readouterr().out.splitlines() if re.match(r"[12]/2 01-", line)]
    assert [line[:3] for line in lines] == ["1/2", "2/2"] and all("test F1 en" in line for line in lines)
    assert list(study.home.glob("seen-*")) == []


def test_a_run_whose_worker_is_killed_goes_on_to_the_same_record(profile, one_by_one, tmp_path, monkeypatch):
    monkeypatch.setenv(workers.WORKERS, "2")
    monkeypatch.setattr(machine, "cores", lambda: 2)
    study = Study.open(profile, tmp_path, "sample")
    run = study.runs(kind="baseline")[0]
    killed = []

    def kill():
        killed.append(holder(study, run))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    made = study.make_all(study.runs(kind="baseline"))
    killer.join(WAIT)
    assert killed and killed[0] != os.getpid()
    same(made, one_by_one(profile))


def test_a_killed_study_loses_nothing(profile, one_by_one, tmp_path, monkeypatch):
    fields = {name: getattr(profile, name) for name in ("name", "backbones", "teacher", "students", "seeds")}
    fields |= {name: getattr(profile, name) for name in ("train_sentences", "epochs", "learning_rate")}
    program = (
        "from dataclasses import replace\nfrom mmalib.profiles import load_profile\n"
        "from mmalib.studies.study import Study\n"
        f"study = Study.open(replace(load_profile({str(FILE)!r}), **{fields!r}), {str(tmp_path)!r}, 'sample')\n"
        "study.make_all(study.runs(kind='baseline'))\n"
    )
    environment = {**os.environ, workers.WORKERS: "2"}
    environment["RAY_ADDRESS"] = "127.0.0.1:1"  # somebody else's cluster on the same machine is left alone
    driver = subprocess.Popen([sys.executable, "-c", program], env=environment, start_new_session=True)
    study = Study.open(profile, tmp_path, "sample")
    holder(study, study.runs(kind="baseline")[0])
    driver.kill()
    driver.wait(WAIT)
    deadline = time.monotonic() + WAIT
    while lock.held(study.home / "locks") and time.monotonic() < deadline:  # the workers end with their driver
        time.sleep(0.1)
    assert lock.held(study.home / "locks") == []
    torch.set_num_threads(1)
    made = [study.make(run) for run in study.runs(kind="baseline")]
    torch.set_num_threads(2)
    same(made, one_by_one(profile))


def test_a_worker_that_does_not_see_the_folder_says_so(profile, tmp_path):
    about = (profile, tmp_path, "sample", {})
    with pytest.raises(ValueError, match=f"does not see the folder {tmp_path}. Put --runs on storage"):
        workers._make(about, "01-x", 1, str(tmp_path / "seen-1.tmp"), machine.commit())
    (tmp_path / "seen-1.tmp").touch()
    with pytest.raises(ValueError, match="has mmalib at .*, this study is made by another"):
        workers._make(about, "01-x", 1, str(tmp_path / "seen-1.tmp"), "another")


def test_without_ray_there_is_one_line(profile, tmp_path, monkeypatch):
    monkeypatch.setenv(workers.WORKERS, "2")
    monkeypatch.setitem(sys.modules, "ray", None)
    study = Study.open(profile, tmp_path, "sample")
    with pytest.raises(ValueError, match=r"need Ray: pip install '.\[study,ray\]'"):
        study.make_all(study.runs(kind="baseline"))
    monkeypatch.setenv(workers.WORKERS, "two")
    with pytest.raises(ValueError, match="MMALIB_WORKERS is 'two'"):
        study.make_all(study.runs(kind="baseline"))


def test_what_is_left_to_make_has_its_needs_first(profile, tmp_path):
    study = Study.open(profile, tmp_path, "sample")
    cut = study.runs(kind="vocabulary")
    assert [run.kind for run in workers.to_make(study, cut).values()] == ["baseline", "vocabulary"]
    study.make(cut[0].needs["base"])
    assert list(workers.to_make(study, cut)) == [cut[0].name]
    assert of_kind(study.records(), "baseline") and Path(study.home / "records").is_dir()


def test_workers_are_told_where_the_corpora_are(profile, tmp_path, monkeypatch):
    monkeypatch.setenv("MMALIB_DATA", "conll")
    monkeypatch.chdir(tmp_path)
    assert workers._data(Study.open(profile, tmp_path)) == str(tmp_path / "conll")
    assert workers._data(Study.open(profile, tmp_path, "sample")) == "sample"


def test_speed_is_measured_on_a_node_alone():
    case = plan.shape(load_profile("quick"), plan.planned_cases(load_profile("quick"))[0], "sample")

    class TwoKindsOfNodes:
        @staticmethod
        def cluster_resources():
            return {"CPU": 16, workers.SPEED_NODE: 1, "GPU": 2}

    assert workers._claim(TwoKindsOfNodes, case, 8, 4) == {"num_cpus": 8, "resources": {workers.SPEED_NODE: 1}}
    base = plan.baseline(load_profile("quick"), "e5-half", "sample", 1)
    assert workers._claim(TwoKindsOfNodes, base, 8, 4) == {"num_cpus": 2, "num_gpus": 0.25}
