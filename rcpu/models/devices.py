"""Devices and precisions: what a name stands for on this machine, and what is free."""

from __future__ import annotations

import re

import psutil
import torch
from transformers import PreTrainedConfig

from rcpu.base.containers import free_in_container
from rcpu.base.errors import RcpuError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps")


def check_names(device: object, dtype: object) -> None:
    """Raise ``RcpuError`` for what names no device or precision on any machine."""
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise RcpuError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    if dtype not in (*DTYPES, "auto"):
        raise RcpuError(f"unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}, auto")


def resolve_device(device: str) -> torch.device:
    """The device that a name stands for; raises ``RcpuError`` if this machine has none such."""
    check_names(device, "auto")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    if device == "cpu":
        return torch.device("cpu")
    if device == "mps":
        if not mps:
            raise RcpuError("device mps: this machine or this build of torch has no Apple GPU; use cpu or auto")
        return torch.device("mps")
    if not cuda:
        raise RcpuError(f"device {device}: this machine or this build of torch has no CUDA GPU; use cpu or auto")
    if int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise RcpuError(f"device {device}: this machine has {torch.cuda.device_count()} CUDA GPUs, from cuda:0")
    return torch.device(device)


def accelerators() -> list[str]:
    """Names of the GPUs of this machine that a model can be loaded on."""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return cuda + (["mps"] if torch.backends.mps.is_available() else [])


def resolve_dtype(dtype: str, device: torch.device, config: PreTrainedConfig) -> torch.dtype:
    """The dtype that a name stands for on a device; raises ``RcpuError`` for an unknown name."""
    if dtype == "auto":
        own = config.dtype if config.dtype in DTYPES.values() else torch.float16
        return torch.float32 if device.type == "cpu" else own
    check_names("auto", dtype)
    return DTYPES[dtype]


def dtype_name(dtype: torch.dtype) -> str:
    """What we call a precision: fp32, bf16 or fp16."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be used on a device; on the CPU a container's own limit counts where it is tighter."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    machine, container = psutil.virtual_memory().available, free_in_container()
    return machine if container is None else min(machine, container)
