"""Choosing a device, and telling what machine this is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cifarlab.device import choose_device, computes_in_bf16, environment, has_fast_bf16
from cifarlab.errors import UsageError


def test_devices_by_name() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UsageError, match="unknown device 'cdua': did you mean 'cuda'"):
        choose_device("cdua")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="PyTorch sees no CUDA device here"):
            choose_device("cuda")


def test_the_environment_is_told() -> None:
    found = environment(torch.device("cpu"))
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["device"] == "cpu" and found["processor"]


def test_fast_bf16_is_what_the_processor_says() -> None:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return
    has = "avx512_bf16" in flags or "amx_bf16" in flags
    assert has_fast_bf16(torch.device("cpu")) == has


def test_precision_by_name() -> None:
    cpu = torch.device("cpu")
    assert computes_in_bf16("bf16", cpu) and not computes_in_bf16("fp32", cpu)
    assert computes_in_bf16("auto", cpu) == has_fast_bf16(cpu)
    with pytest.raises(UsageError, match="unknown precision 'fp23': did you mean 'fp32'"):
        computes_in_bf16("fp23", cpu)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts page faults like this, and only glibc helps")
def test_freed_memory_is_kept() -> None:
    command = (
        "import resource, torch\n"
        "from cifarlab.device import keep_freed_memory\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(20): torch.ones(20_000_000)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "faults()\n"
        "first = faults()\n"
        "keep_freed_memory()\n"
        "faults()\n"
        "print(first, faults())\n"
    )
    ended = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    without, kept = map(int, ended.stdout.split())
    assert without > 1000 > kept
