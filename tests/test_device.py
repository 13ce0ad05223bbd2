"""Choosing a device, and telling what machine this is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cifarlab.device import choose_device, environment, has_fast_bf16
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
