"""bert/precision.py, on every kind of hardware: faked where this machine is another."""

import platform

import pytest
import torch

from bert.precision import autocast, make_scaler, resolve_device, resolve_precision
from runtime.errors import UnavailableError, UsageError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def hardware(monkeypatch):
    """hardware("x86_64", amx=True): a processor; hardware(gpu=(8, 0)): a GPU of that compute capability."""

    def fake(machine="x86_64", amx=False, avx512_bf16=False, mkldnn=False, gpu=None):
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: mkldnn, raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: gpu)

    return fake


@pytest.mark.fault(26)
@pytest.mark.parametrize(
    "features, auto, refused",
    [
        ({}, "off", {"bf16", "fp16"}),
        ({"mkldnn": True}, "off", {"bf16", "fp16"}),  # AVX-512 without bfloat16: emulated
        ({"amx": True, "mkldnn": True}, "bf16", {"fp16"}),
        ({"avx512_bf16": True}, "bf16", {"fp16"}),
        ({"machine": "aarch64", "mkldnn": True}, "bf16", {"fp16"}),
        ({"machine": "arm64"}, "off", {"bf16", "fp16"}),
        ({"gpu": (9, 0)}, "bf16", set()),
        ({"gpu": (8, 0)}, "bf16", set()),
        ({"gpu": (7, 5)}, "fp16", {"bf16"}),
        ({"gpu": (6, 1)}, "off", {"bf16"}),
    ],
)
def test_precision(hardware, features, auto, refused):
    hardware(**features)
    device = GPU if "gpu" in features else CPU
    assert resolve_precision("auto", device) == auto
    for amp in {"off", "bf16", "fp16"} - refused:
        assert resolve_precision(amp, device) == amp
    for amp in refused:
        there = ", ".join(each for each in ("auto", "off", "bf16", "fp16") if each not in refused)
        with pytest.raises(UsageError, match=f"does not compute in {amp}; take one of {there}$"):
            resolve_precision(amp, device)


def test_a_build_that_cannot_be_asked_says_no(hardware, monkeypatch):
    assert isinstance(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported(), bool)  # this one can
    hardware()
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert resolve_precision("auto", CPU) == "off"


@pytest.mark.fault(26)
def test_devices(hardware):
    hardware()
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    with pytest.raises(UnavailableError, match="take --device cpu"):
        resolve_device("cuda")
    hardware(gpu=(9, 0))
    assert resolve_device("auto") == resolve_device("cuda") == GPU
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("mode, dtype", [("off", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_and_the_scaler_that_a_cpu_does_not_need(mode, dtype):
    x = torch.ones(2, 3)
    with autocast(CPU, mode):
        assert (x @ x.mT).dtype == dtype
    assert make_scaler(mode).state_dict() == {} and make_scaler(mode).scale(x) is x
