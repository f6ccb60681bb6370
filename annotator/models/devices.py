"""Where networks run, and how precisely: `auto` made concrete, and what the machine cannot do refused."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.errors import ConfigError

if TYPE_CHECKING:
    from annotator.models.backbone import Precision

PHOTOS_AT_ONCE = {"cpu": 4, "mps": 8, "cuda": 16}
"""On a CPU more would only make progress and Ctrl-C wait: its batches are windows, not photos."""
WINDOWS_AT_ONCE = {"cpu": 1, "mps": 8, "cuda": 32}
"""A batch that is not full costs as much as a full one; a CPU takes no longer per window when they come one by one."""
CROPS_AT_ONCE = {"cpu": 12, "mps": 30, "cuda": 60}
"""The 59 crops of CLIP-DIY fill theirs."""
SEGMENTS_AT_ONCE = 32
"""Zero-guidance has about 20 segments at first; each costs the last layers of CLIP on a whole photo."""
MOST_DECODERS = 8

_NO_MEMORY = re.compile(r"can't allocate memory|(CUDA|HIP) error: out of memory|STATUS_ALLOC_FAILED")
_OF_A_DEVICE = re.compile(r"\b(CUDA|HIP|XPU) error\b|device-side assert")
_OF_ONE_CALL = re.compile(r"error: (invalid configuration argument|invalid argument|too many resources requested)")
"""What CUDA says of a call that it did not even begin, as for a photo of too many pixels."""
_STATUS = re.compile(r"\b(?:CUBLAS|CUDNN|CUSOLVER|CUSPARSE|HIPBLAS)_STATUS_(\w+)")
_BROKEN_STATUS = ("EXECUTION_FAILED", "INTERNAL_ERROR", "MAPPING_ERROR", "NOT_INITIALIZED")


def resolve_device(name: str) -> str:
    """`auto` -> cuda, mps or cpu; any other name as it is, if this machine has it."""
    import torch

    mps = torch.backends.mps.is_available()
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    known = ["cpu", *(["mps"] if mps else [])]
    if torch.cuda.is_available():
        known += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name not in known:
        raise ConfigError(f"--device {name}: expected auto or one that this machine has ({', '.join(known)})")
    return name


def resolve_devices(names: str) -> list[str]:
    """`cuda:0,cuda:1`, or `cuda:*` for every GPU -> each by itself; one name -> that one alone."""
    import torch

    if names == "cuda:*":
        names = ",".join(f"cuda:{index}" for index in range(torch.cuda.device_count())) or "cuda"
    devices = [resolve_device(name.strip()) for name in names.split(",")]
    if len({kind_of(device) for device in devices}) > 1:
        raise ConfigError(f"--device {names}: expected devices of one kind; others would give other masks")
    return devices


def resolve_precision(name: str, device: str) -> Precision:
    """`auto` -> bf16 on GPUs that have it, fp32 elsewhere; bf16 itself only where the hardware has it."""
    if name not in ("auto", "fp32", "bf16"):
        raise ConfigError(f"--precision {name}: expected auto, fp32 or bf16")
    if name == "bf16" and not has_bf16(device):
        raise ConfigError(f"--precision bf16: {device} computes it by emulation, slower than fp32; leave it at auto")
    if name == "auto":
        return "bf16" if kind_of(device) == "cuda" and has_bf16(device) else "fp32"
    return "bf16" if name == "bf16" else "fp32"


def require_compiler(device: str) -> None:
    """`torch.compile` asks for the system's, in C for what starts kernels on a GPU, and builds modules of Python."""
    names = ("CC", "gcc", "clang") if kind_of(device) == "cuda" else ("CXX", "g++", "clang++", "c++")
    given = os.environ.get(names[0], "")
    if not any(shutil.which(name) for name in (given, *names[1:]) if name):
        language = "C" if names[0] == "CC" else "C++"
        raise ConfigError(
            f"--compile: expected a {language} compiler, but found none; install {names[1]} or leave it out"
        )
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # Debian's headers are there alone
    headers = Path(sysconfig.get_path("include", scheme))
    if not (headers / "Python.h").is_file():
        raise ConfigError(
            f"--compile: expected Python's headers in {headers}, but found none; install python3-dev or leave it out"
        )


def has_bf16(device: str) -> bool:
    import torch

    if kind_of(device) == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # not in every version of torch
    return kind_of(device) == "cpu" and any(getattr(torch.cpu, check, bool)() for check in checks)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or this machine, had not the memory that was asked for."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or _NO_MEMORY.search(str(error)) is not None


def is_broken_device(error: BaseException) -> bool:
    """Whether the device failed, and not the computation: nothing else will work on it in this process."""
    import torch

    text = str(error)
    if is_out_of_memory(error) or _OF_ONE_CALL.search(text) or _STATUS.search(text):
        return False
    return isinstance(error, torch.AcceleratorError) or _OF_A_DEVICE.search(text) is not None


def may_be_broken_device(error: BaseException) -> bool:
    """Whether a library of the device failed, as it does on a broken device, but also on too large a photo."""
    status = _STATUS.search(str(error))
    return status is not None and status[1].startswith(_BROKEN_STATUS) and not is_out_of_memory(error)


def kind_of(device: str) -> str:
    """cuda:1 -> cuda."""
    return device.split(":")[0]


def decode_workers(device: str) -> int:
    """Processes that decode photos: on a CPU the networks want the cores, a GPU wants to be fed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if kind_of(device) == "cpu" else max(1, min(cores - 1, MOST_DECODERS))


def keep_freed_memory() -> None:
    """Have glibc hand a freed tensor's pages to the next one, not back to the kernel, which would clear them anew.

    A forward pass on a CPU frees and asks for the same megabytes at every layer; the peak stays what it was.
    """
    mmap_threshold, trim_threshold = -3, -1  # malloc.h
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(mmap_threshold, 128 << 20)
        libc.mallopt(trim_threshold, 1 << 30)
