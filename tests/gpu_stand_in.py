"""A GPU for machines without one: torch's CUDA, computed on the CPU by the library that gpu_stand_in.cpp makes.

It raises where tensors of two devices meet and where a CPU generator draws for the GPU, fills new memory with NaN, runs
out of memory at torch.cuda.set_per_process_memory_fraction, and counts launches and waits. Of a GPU's own rounding, of
results that differ from run to run, and of speed it knows nothing. Loaded, it stays: for a process of its own.
"""

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from filelock import FileLock

SOURCE = Path(__file__).with_suffix(".cpp")
TORCH = Path(importlib.util.find_spec("torch").origin).parent  # which is imported only when the library is there
BYTES = 80 << 30  # of the whole GPU


def missing() -> str:
    """What it takes to build and load the library and is not there; "" where nothing is missing."""
    parts = {
        "Linux": sys.platform == "linux",
        "g++": shutil.which("g++"),
        "torch's headers": (TORCH / "include" / "torch" / "library.h").exists(),
        "a torch for CPUs": not any((TORCH / "lib" / f"libtorch_{kind}.so").exists() for kind in ("cuda", "hip")),
    }
    return ", ".join(name for name, there in parts.items() if not there)


def build() -> Path:
    """The library for this torch, from the temporary folder: made by whichever process comes first, in 15 seconds."""
    version = hashlib.sha256(SOURCE.read_bytes() + (TORCH / "version.py").read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"gpu-stand-in-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    assert folder.lstat().st_uid == os.getuid(), f"{folder} is another user's"
    library = folder / f"{version}.so"
    with FileLock(folder / "lock"):
        if not library.exists():
            half = library.with_suffix(f".{os.getpid()}")
            include = [f"-I{TORCH / 'include' / folder}" for folder in ("", "torch/csrc/api/include")]
            link = [f"-L{TORCH / 'lib'}", f"-Wl,-rpath,{TORCH / 'lib'}", "-ltorch_cpu", "-lc10"]
            flags = ["-std=c++20", "-O0", "-w", "-shared", "-fPIC"]
            subprocess.run(["g++", *flags, *include, SOURCE, "-o", half, *link], check=True)
            half.rename(library)
    return library


def load() -> None:
    """From here on this process has a GPU. To be called before torch is imported, which asks for it once."""
    ctypes.CDLL(str(build()), mode=ctypes.RTLD_GLOBAL)
    import torch

    ops, generator = torch.ops.gpu_stand_in, torch.Generator()
    ops.draw_from(generator)
    properties = SimpleNamespace(name="stand-in", total_memory=BYTES, major=9, minor=0)
    for name, value in {
        "_lazy_init": None,
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "is_bf16_supported": True,
        "get_device_properties": properties,
        "get_device_capability": (9, 0),
        "synchronize": None,
        "empty_cache": None,
    }.items():
        setattr(torch.cuda, name, lambda *args, value=value, **settings: value)
    torch.cuda.get_rng_state = lambda device=None: generator.get_state()
    torch.cuda.set_rng_state = lambda state, device=None: generator.set_state(state)
    torch.cuda.manual_seed = torch.cuda.manual_seed_all = generator.manual_seed
    torch.cuda.memory_allocated = lambda device=None: ops.allocated()
    torch.cuda.max_memory_allocated = lambda device=None: ops.peak()
    torch.cuda.reset_peak_memory_stats = lambda device=None: ops.reset_peak()
    torch.cuda.set_per_process_memory_fraction = lambda share, device=None: ops.set_limit(int(share * BYTES))


def counts() -> tuple[dict[str, int], dict[str, int]]:
    """How often each operator was launched, and waited for, since this was last asked."""
    import torch

    ops = torch.ops.gpu_stand_in
    found = dict(ops.launches()), dict(ops.waits())
    ops.forget()
    return found
