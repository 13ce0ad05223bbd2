"""Where to compute, and what machine this is."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cifarlab.errors import UsageError, unknown

NAMES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16")
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of mallopt, from glibc's malloc.h
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


def computes_in_bf16(precision: str, device: torch.device) -> bool:
    """Whether a recipe's `precision` means bfloat16 on this device; `auto` does where the device computes in it.

    Raises:
        UsageError: no such precision.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    return has_fast_bf16(device) if precision == "auto" else precision == "bf16"


def precision_of(precision: str, device: torch.device) -> str:
    """`fp32` or `bf16`, whichever a recipe's `precision` means on this device. Raises as `computes_in_bf16` does."""
    return "bf16" if computes_in_bf16(precision, device) else "fp32"


def keep_freed_memory() -> None:
    """Has the C library keep the memory that is freed instead of giving it back to the system.

    Training frees and takes the same large blocks in every step; each time the system has to clear their pages again,
    which is a fifth of a step and more (docs/speed.md). Only glibc has these settings; elsewhere nothing happens.
    """
    libc = ctypes.CDLL(None)
    if not (sys.platform == "linux" and hasattr(libc, "gnu_get_libc_version")):
        return
    for setting, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
        libc.mallopt(setting, value)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
