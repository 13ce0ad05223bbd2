"""A study in a real cluster of several machines, all simulated on this one, of which one is lost half way."""

from __future__ import annotations

import csv
import importlib.util
import io
import logging
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cifarlab import run_study
from cifarlab.errors import CifarlabError, UsageError
from cifarlab.experiments.study.engines.ray import RayEngine, pack, unpack
from cifarlab.runs.folder import RunFolder
from conftest import Cli

REQUIRED = "CIFARLAB_TEST_ALL" in os.environ
SMALL = {"dataset": "digits", "epochs": 2, "batch_size": 256}
RUNS = 8
ENDED_BEFORE_THE_LOSS = 3
SECONDS = 300.0  # for a busy machine

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None and not REQUIRED, reason="the package ray is not installed"
)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two machines of one core each, beside one without any on which the study itself runs."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's own spelling; at its 15 they starve beside others)
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    small: dict[str, Any] = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    cluster.machines = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]  # type: ignore[attr-defined]
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    yield cluster
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]


def read_table(folder: Path) -> list[dict[str, str]]:
    try:
        return list(csv.DictReader(io.StringIO((folder / "results.csv").read_text())))
    except FileNotFoundError:
        return []


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray leaves files and processes open until the end
def test_the_runs_of_a_lost_machine_start_again_elsewhere(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "many"
    interrupted: list[str] = []

    def remove_a_machine() -> None:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            rows = read_table(folder)
            if sum(row["status"] == "finished" for row in rows) >= ENDED_BEFORE_THE_LOSS:
                interrupted.extend(row["run"] for row in rows if row["status"] == "running")
                cluster.remove_node(cluster.machines[0], allow_graceful=False)
                return
            time.sleep(0.05)

    remover = threading.Thread(target=remove_a_machine, daemon=True)
    remover.start()
    options: dict[str, Any] = {"engine": "ray", "retries": 0, "name": "many", "runs": tmp_path / "runs"}
    outcome = run_study("lenet5", set=SMALL, vary={"seed": f"0:{RUNS}"}, **options)
    remover.join()
    assert interrupted, "no machine was lost while runs were trained"
    assert "waiting (again after: its machine or its process was lost" in capsys.readouterr().err
    assert [state.status for state in outcome.states.values()] == ["finished"] * RUNS
    names = [row["run"] for row in read_table(folder)]
    assert sorted(names) == sorted(f"seed={seed}" for seed in range(RUNS))
    assert {path.parent.name for path in folder.glob("*/run.json")} == set(names)
    for seed in range(RUNS):
        run = RunFolder(folder / f"seed={seed}")
        assert run.status == "finished" and run.record.seed == seed and [row.epoch for row in run.history] == [1, 2]
        assert (run.path / "report.html").exists() and (run.path / "best.safetensors").exists()
    with pytest.raises(UsageError, match="no machine of the cluster has the 64 cores and 0 GPUs of a run"):
        RayEngine(None, None, cpus=64, gpus=0)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="the package ray is installed")
def test_a_missing_package_is_named(cli: Cli) -> None:
    ended = cli("study", "lenet5", "--set", "dataset=digits", "--vary", "seed=0:2", "--engine", "ray", status=2)
    assert "--engine ray needs ray. Install it: pip install 'cifarlab[cluster]'" in ended.stderr


def test_a_packed_run_is_unpacked_as_it_was(tmp_path: Path) -> None:
    run, copy = tmp_path / "run", tmp_path / "copy"
    (run / "figures").mkdir(parents=True)
    for name in ("run.json", "checkpoint.pt", "figures/curves.svg", ".lock", "checkpoint-older.pt", "stop"):
        (run / name).write_text(name)
    copy.mkdir()
    unpack(pack(run), copy)
    files = {path.relative_to(copy).as_posix(): path.read_text() for path in copy.rglob("*") if path.is_file()}
    assert files == {name: name for name in ("run.json", "checkpoint.pt", "figures/curves.svg")}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../elsewhere", b"")
    with pytest.raises(CifarlabError, match="is not a file of a run folder"):
        unpack(buffer.getvalue(), copy)
    assert not (tmp_path / "elsewhere").exists()
