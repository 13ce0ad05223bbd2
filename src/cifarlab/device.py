"""Where to compute, and what machine this is."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cifarlab.errors import UsageError, unknown

NAMES = ("auto", "cpu", "cuda")
_LIBRARIES = ("cifarlab", "torch", "numpy", "scikit-learn", "pillow", "safetensors")


def choose_device(name: str = "auto") -> torch.device:
    """The device of this name; `auto` takes CUDA where there is some.

    Raises:
        UsageError: the name is unknown, or there is no such device here.
    """
    if name not in NAMES:
        raise unknown("device", name, NAMES)
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise UsageError("device 'cuda': PyTorch sees no CUDA device here, use auto or cpu")
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and machine, as far as they bear on results and speed."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
        "system": platform.platform(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself. Elsewhere it is emulated, ten times slower than fp32 and more."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
