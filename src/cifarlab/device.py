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
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The precisions, and what forward and backward passes compute in."""
PRECISIONS = ("auto", *DTYPES)
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


SLOW_FP16 = "fp16 is for GPUs: a processor computes many times slower in it than in bf16 or fp32"


def precision_of(precision: str, device: torch.device) -> str:
    """What a recipe's `precision` means on this device, one of `DTYPES`.

    `auto` is bf16 where the device computes in it itself, else fp16 on a GPU and fp32 on a processor.

    Raises:
        UsageError: no such precision.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision != "auto":
        return precision
    if has_fast_bf16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" else "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """To be entered around a forward pass, so that its convolutions and matrix products compute in a precision.

    Raises:
        UsageError: no such precision.
    """
    dtype = DTYPES[precision_of(precision, device)]
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def keep_freed_memory() -> None:
    """Has the C library keep the memory that is freed instead of giving it back to the system.

    Training frees and takes the same large blocks in every step; each time the system has to clear their pages again,
    which is a fifth of a step and more (docs/internals/speed.md). Only glibc has these settings; elsewhere nothing
    happens.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
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
