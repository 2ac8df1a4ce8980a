"""The device and the precision that a model computes in: autocast and the gradient scaler."""

import os
import platform
import sys

import torch

from runtime.errors import UnavailableError, UsageError

try:
    import resource
except ImportError:  # Windows has none
    resource = None

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
DEVICES, PRECISIONS = ("auto", "cpu", "cuda"), ("auto", "off", *DTYPES)


def resolve_device(name: str) -> torch.device:
    """auto | cpu | cuda -> a device; auto is the GPU where there is one. Raises UnavailableError for a missing GPU.

    From here on float32 stays float32: in convolutions, which cuDNN would round to TF32, and in products, which cuBLAS
    would where TORCH_ALLOW_TF32_CUBLAS_OVERRIDE asks for it.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise UnavailableError(f"--device: expected a GPU; torch {torch.__version__} finds none; take --device cpu")
    return torch.device("cpu" if name == "cpu" or not has_gpu else "cuda")


def peak_memory(device: torch.device) -> float | None:
    """This process's peak memory in GB: resident, or on a GPU that of torch's tensors. None on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if resource is None:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def resolve_precision(amp: str, device: torch.device) -> str:
    """auto | off | bf16 | fp16 -> off | bf16 | fp16; auto becomes the fastest that the hardware has.

    Raises UsageError for one that the hardware does not have: emulated, it would be many times slower than float32.
    """
    gpu, bf16 = device.type == "cuda", computes_bf16(device)
    if amp == "auto" and bf16:
        return "bf16"
    if amp == "auto":
        return "fp16" if gpu and torch.cuda.get_device_capability(device) >= (7, 0) else "off"
    available = ["off"] + ["bf16"] * bf16 + ["fp16"] * gpu
    if amp not in available:
        advice = f"take one of auto, {', '.join(available)}"
        raise UsageError(f"--amp: this {device.type} does not compute in {amp}; {advice}")
    return amp


def computes_bf16(device: torch.device) -> bool:
    """Whether the hardware itself has bfloat16 matrix products."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:  # private names, the same in torch 2.10 and 2.13, but missing in some builds
        if platform.machine() in ("x86_64", "AMD64"):  # mkldnn's query says yes on any AVX-512, also if emulated
            return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):
        return False


def autocast(device: torch.device, amp: str) -> torch.autocast:
    """The context of forward passes. amp: a result of `resolve_precision`."""
    return torch.autocast(device.type, DTYPES.get(amp), enabled=amp != "off")


def make_scaler(amp: str) -> torch.amp.GradScaler:
    """Scales the loss under fp16, whose small gradients would vanish; does nothing under the others."""
    return torch.amp.GradScaler("cuda", enabled=amp == "fp16")


def set_deterministic(wanted: bool) -> None:
    """Refuse operations whose result may vary on a GPU, or allow them again."""
    if wanted:  # cuBLAS needs this before its first use
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if wanted != torch.are_deterministic_algorithms_enabled():  # the call takes a second of imports
        torch.use_deterministic_algorithms(wanted)
