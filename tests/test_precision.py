"""training/precision.py, on every kind of hardware: faked where this machine is another."""

from __future__ import annotations

import pytest
import torch

from training import precision
from training.errors import DeviceError, UsageError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def hardware(monkeypatch):
    """hardware("x86_64", amx=True): a processor; hardware(gpu=(8, 0)): a GPU of that compute capability."""

    def fake(machine="x86_64", amx=False, avx512_bf16=False, mkldnn=False, gpu=None):
        monkeypatch.setattr(precision.platform, "machine", lambda: machine)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: mkldnn, raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: gpu)

    return fake


@pytest.mark.fault(26)
@pytest.mark.parametrize(
    "features, expected",
    [
        ({}, "off"),
        ({"mkldnn": True}, "off"),  # AVX-512 without bfloat16: emulated
        ({"amx": True, "mkldnn": True}, "bf16"),
        ({"avx512_bf16": True}, "bf16"),
        ({"machine": "aarch64", "mkldnn": True}, "bf16"),
        ({"machine": "arm64"}, "off"),
    ],
)
def test_auto_on_a_cpu(hardware, features, expected):
    hardware(**features)
    assert precision.resolve("auto", CPU) == expected
    if expected == "off":
        with pytest.raises(UsageError, match="take off") as caught:
            precision.resolve("bf16", CPU)
        assert caught.value.exit_code == 2
    else:
        assert precision.resolve("bf16", CPU) == "bf16"


@pytest.mark.fault(26)
@pytest.mark.parametrize("gpu, expected", [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((6, 1), "off")])
def test_auto_on_a_gpu(hardware, gpu, expected):
    hardware(gpu=gpu)
    assert precision.resolve("auto", GPU) == expected
    assert precision.resolve("fp16", GPU) == "fp16"
    if gpu < (8, 0):
        with pytest.raises(UsageError, match="take fp16 or off") as caught:
            precision.resolve("bf16", GPU)
        assert caught.value.exit_code == 2


def test_a_build_that_cannot_be_asked_says_no(hardware, monkeypatch):
    hardware()
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert precision.resolve("auto", CPU) == "off"


def test_this_build_can_be_asked():
    assert isinstance(torch.cpu._is_amx_tile_supported(), bool)
    assert isinstance(torch.cpu._is_avx512_bf16_supported(), bool)


@pytest.mark.fault(26)
def test_off_is_off_and_fp16_is_not_for_a_cpu(hardware):
    hardware(amx=True)
    assert precision.resolve("off", CPU) == "off"
    with pytest.raises(UsageError, match="found fp16"):
        precision.resolve("fp16", CPU)


@pytest.mark.fault(26)
def test_devices(hardware):
    hardware()
    assert precision.resolve_device("auto") == precision.resolve_device("cpu") == CPU
    with pytest.raises(DeviceError, match="take --device cpu") as caught:
        precision.resolve_device("cuda")
    assert caught.value.exit_code == 8
    hardware(gpu=(9, 0))
    assert precision.resolve_device("auto") == precision.resolve_device("cuda") == GPU
    assert precision.resolve_device("cpu") == CPU


@pytest.mark.parametrize("mode, dtype", [("off", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast(mode, dtype):
    x = torch.ones(2, 3)
    with precision.autocast(CPU, mode):
        assert (x @ x.mT).dtype == dtype


@pytest.mark.parametrize("mode", ["off", "bf16"])
def test_a_scaler_that_is_not_needed_does_nothing(mode):
    class Optimizer:
        steps = 0

        def step(self):
            self.steps += 1

    scaler, loss, optimizer = precision.make_scaler(mode), torch.ones(()), Optimizer()
    assert scaler.scale(loss) is loss
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert optimizer.steps == 1
    assert scaler.state_dict() == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fp16_scales():
    assert precision.make_scaler("fp16").is_enabled()
