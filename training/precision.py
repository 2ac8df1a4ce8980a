"""Which device, and in which precision: autocast and the gradient scaler."""

from __future__ import annotations

import platform

import torch

from training.errors import DeviceError, UsageError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """auto | cpu | cuda -> a device; auto is the GPU where there is one. Raises DeviceError for a missing GPU."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise DeviceError(f"--device: expected a CUDA GPU; torch {torch.__version__} finds none; take --device cpu")
    return torch.device("cpu" if name == "cpu" or not there else "cuda")


def resolve(amp: str, device: torch.device) -> str:
    """auto | off | bf16 | fp16 -> off | bf16 | fp16, whichever the device computes in.

    auto: bf16 where the hardware has it, else fp16 on a GPU with tensor cores, else off.
    Raises UsageError for a precision that the hardware lacks: emulated, it would be many times slower than float32.
    """
    if amp == "auto":
        if computes_bf16(device):
            return "bf16"
        return "fp16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0) else "off"
    if amp == "bf16" and not computes_bf16(device):
        instead = "fp16 or off" if device.type == "cuda" else "off"
        raise UsageError(f"--amp: expected a precision that this {device.type} computes in; found bf16; take {instead}")
    if amp == "fp16" and device.type == "cpu":
        raise UsageError("--amp: expected auto, off or bf16 on a CPU; found fp16; take auto")
    return amp


def computes_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are the hardware's own."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if platform.machine() in ("x86_64", "AMD64"):
        # mkldnn's own query says yes on any AVX-512, where it emulates. Private names, in torch 2.10 as in 2.13.
        return _asks(torch.cpu, "_is_amx_tile_supported") or _asks(torch.cpu, "_is_avx512_bf16_supported")
    return _asks(torch.ops.mkldnn, "_is_mkldnn_bf16_supported")


def _asks(module: object, query: str) -> bool:
    """The answer to a yes-no query; no where this build of torch does not know it."""
    try:
        return bool(getattr(module, query)())
    except (AttributeError, RuntimeError):
        return False


def autocast(device: torch.device, mode: str) -> torch.autocast:
    """The context of forward passes; mode: off, bf16 or fp16, as `resolve` gives it."""
    return torch.autocast(device.type, DTYPES.get(mode), enabled=mode != "off")


def make_scaler(mode: str) -> torch.amp.GradScaler:
    """Scales the loss under fp16, whose small gradients would vanish; does nothing under the others."""
    return torch.amp.GradScaler("cuda", enabled=mode == "fp16")
