"""Devices, precisions, and facts about the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cifarlab.device import autocast, choose_device, environment, has_fast_bf16, precision_of
from cifarlab.errors import UsageError


def test_devices_by_name() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UsageError, match="unknown device 'cdua': did you mean 'cuda'"):
        choose_device("cdua")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="PyTorch finds no CUDA device"):
            choose_device("cuda")


def test_the_environment_has_versions_and_machine() -> None:
    facts = environment(torch.device("cpu"))
    assert facts["torch"] in (torch.__version__, torch.__version__.split("+")[0])
    assert facts["threads"] == torch.get_num_threads()
    assert facts["device"] == "cpu" and facts["processor"]


def test_fast_bf16_agrees_with_the_flags_of_the_processor() -> None:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return
    has = "avx512_bf16" in flags or "amx_bf16" in flags
    assert has_fast_bf16(torch.device("cpu")) == has


def test_precision_by_name() -> None:
    cpu = torch.device("cpu")
    assert [precision_of(name, cpu) for name in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]
    assert precision_of("auto", cpu) == ("bf16" if has_fast_bf16(cpu) else "fp32")
    with pytest.raises(UsageError, match="unknown precision 'fp23': did you mean 'fp32'"):
        precision_of("fp23", cpu)


def test_matrix_products_are_computed_in_the_requested_precision() -> None:
    square = torch.rand(4, 4)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        with autocast(name, torch.device("cpu")):
            assert (square @ square).dtype == dtype


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts page faults like this, and only glibc helps")
def test_freed_memory_is_kept() -> None:
    command = (
        "import resource, torch\n"
        "from cifarlab.device import keep_freed_memory\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(5): torch.ones(10_000_000)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "faults()\n"
        "without = faults()\n"
        "keep_freed_memory()\n"
        "faults()\n"
        "print(without, min(faults() for _ in range(5)))\n"  # the system may take memory back once in a while
    )
    ended = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    without, kept = map(int, ended.stdout.split())
    assert without > 1000 > kept
