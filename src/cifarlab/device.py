"""The device and precision of a computation, and facts about the machine."""

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cifarlab.errors import UsageError, unknown

DEVICES = ("auto", "cpu", "cuda")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # of forward and backward passes
PRECISIONS = ("auto", *DTYPES)
EQUAL = 0.97  # share of the highest speed from which on a plainer choice is taken
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # settings of mallopt, from glibc's malloc.h
SLOW_FP16 = "fp16 is for GPUs: a processor computes many times slower in fp16 than in bf16 or fp32"
_LIBRARIES = ("cifarlab", "torch", "numpy", "scikit-learn", "pillow", "safetensors")


def choose_device(name: str = "auto") -> torch.device:
    """Return the device with this name, one of `DEVICES`; `auto` is CUDA if available, else the CPU."""
    if name not in DEVICES:
        raise unknown("device", name, DEVICES)
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise UsageError("device 'cuda' is not available: PyTorch finds no CUDA device. Use auto or cpu.")
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def environment(device: torch.device) -> dict[str, Any]:
    """Return the versions of libraries and the facts about the machine that affect results and speed."""
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
    """Return True if the device computes in bfloat16 itself; emulation is at least ten times slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def precision_of(precision: str, device: torch.device) -> str:
    """Return the precision, a key of `DTYPES`, that a recipe's `precision` stands for on this device.

    `auto` is bf16 if the device computes in bfloat16 itself, else fp16 on a GPU and fp32 on a processor.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision != "auto":
        return precision
    if has_fast_bf16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" else "fp32"


Choice = tuple[str, int]  # precision and number of threads


def choices(precision: str, threads: int | str, device: torch.device) -> list[Choice]:
    """Return what a processor may compute with, plainest first: precisions and numbers of threads.

    `auto` stands for fp32, and bf16 where the processor computes in it itself; and for one thread, half of PyTorch's
    number of threads, or all. On a GPU it stands for one choice alone.
    """
    precisions, most = [precision_of(precision, device)], torch.get_num_threads()
    if device.type != "cpu":
        return [(precisions[0], most)]
    if precision == "auto":
        precisions = ["fp32", "bf16"] if has_fast_bf16(device) else ["fp32"]
    numbers = [int(threads)] if threads != "auto" else sorted({1, max(1, most // 2), most})
    return [(each, number) for each in precisions for number in numbers]


def plainest(seconds: Mapping[Choice, float]) -> Choice:
    """Return the first choice that is about as fast as the fastest, from the seconds that an image takes with each."""
    return next(choice for choice, each in seconds.items() if min(seconds.values()) >= EQUAL * each)


@contextlib.contextmanager
def keep_threads() -> Iterator[None]:
    """Restore PyTorch's number of threads at the end."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return a context in which convolutions and matrix products of a forward pass compute in a precision."""
    dtype = DTYPES[precision_of(precision, device)]
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def keep_freed_memory() -> None:
    """Make the C library keep freed memory instead of returning it to the operating system.

    Every training step frees and allocates the same large blocks. If they are returned, the system clears their pages
    anew, which takes a fifth of a step or more (docs/internals/speed.md). Only glibc has these settings.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        for setting, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
            libc.mallopt(setting, value)


def _processor() -> str:
    with contextlib.suppress(OSError):  # not Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
