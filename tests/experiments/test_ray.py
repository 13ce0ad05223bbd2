"""A study in a real cluster of several machines, all of them on this one, one of which is lost half way."""

from __future__ import annotations

import csv
import importlib.util
import io
import logging
import os
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cifarlab import run_study
from cifarlab.errors import CifarlabError, UsageError
from cifarlab.experiments.study.engines.ray import Ray, pack, unpack
from cifarlab.runs.folder import RunFolder
from conftest import Cli

REQUIRED = "CIFARLAB_TEST_ALL" in os.environ
SMALL = {"dataset": "digits", "epochs": 2, "batch_size": 256}
RUNS = 12
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


def table(folder: Path) -> list[dict[str, str]]:
    try:
        return list(csv.DictReader(io.StringIO((folder / "results.csv").read_text())))
    except FileNotFoundError:
        return []


@needs_ray
@pytest.mark.filterwarnings("ignore")  # of Ray's own, which leaves files and processes to the end
def test_the_runs_of_a_lost_machine_start_again_elsewhere(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "many"
    lost: list[str] = []

    def lose_one() -> None:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if sum(row["status"] == "finished" for row in table(folder)) >= ENDED_BEFORE_THE_LOSS:
                lost.extend(row["run"] for row in table(folder) if row["status"] == "running")
                cluster.remove_node(cluster.machines[0], allow_graceful=False)
                return
            time.sleep(0.05)

    loser = threading.Thread(target=lose_one, daemon=True)
    loser.start()
    how: dict[str, Any] = {"engine": "ray", "retries": 0}
    found = run_study("lenet5", set=SMALL, vary={"seed": f"0:{RUNS}"}, name="many", runs=tmp_path / "runs", **how)
    loser.join()
    assert lost, "no machine was lost while runs were trained"
    assert "waiting (again after: its machine or its process was lost" in capsys.readouterr().err
    assert [row["status"] for row in found.rows] == ["finished"] * RUNS
    names = [row["run"] for row in table(folder)]
    assert sorted(names) == sorted(f"seed={seed}" for seed in range(RUNS))
    assert {path.parent.name for path in folder.glob("*/run.json")} == set(names)
    for seed in range(RUNS):
        run = RunFolder(folder / f"seed={seed}")
        assert run.status == "finished" and run.record.seed == seed and [row.epoch for row in run.history] == [1, 2]
        assert (run.path / "report.html").exists() and (run.path / "best.safetensors").exists()
    with pytest.raises(UsageError, match="no machine of the cluster has 64 cores and 0 GPUs for a run"):
        Ray(None, address=None, cpus=64, gpus=0)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="the package ray is installed")
def test_a_missing_package_is_named(cli: Cli) -> None:
    ended = cli("study", "lenet5", "--set", "dataset=digits", "--vary", "seed=0:2", "--engine", "ray", status=2)
    assert "--engine ray needs ray: pip install 'cifarlab[cluster]'" in ended.stderr


def test_a_packed_run_is_unpacked_as_it_was(tmp_path: Path) -> None:
    run, copy = tmp_path / "run", tmp_path / "copy"
    (run / "figures").mkdir(parents=True)
    for name in ("run.json", "checkpoint.pt", "figures/curves.svg", ".lock", "checkpoint-older.pt", "stop"):
        (run / name).write_text(name)
    copy.mkdir()
    unpack(pack(run), copy)
    there = {path.relative_to(copy).as_posix(): path.read_text() for path in copy.rglob("*") if path.is_file()}
    assert there == {name: name for name in ("run.json", "checkpoint.pt", "figures/curves.svg")}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../elsewhere"), io.BytesIO())
    with pytest.raises(CifarlabError, match="is no file of a run folder"):
        unpack(buffer.getvalue(), copy)
    assert not (tmp_path / "elsewhere").exists()
