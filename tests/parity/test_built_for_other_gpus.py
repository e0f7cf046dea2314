"""Kernels built for other GPUs than the one at hand are not chosen, and it is said why."""

import pytest
import torch

from albert_act_fast import implementations, native

BUILT = "CUDA 13.0 for sm_80, sm_90, sm_100 and PTX for newer ones"


@pytest.fixture
def gpu(monkeypatch):
    """Makes PyTorch find one GPU, and CUDA operators built as `BUILT`."""

    def make(capability, driver, built=BUILT):
        monkeypatch.setattr(native, "why_no_cuda", lambda: None)
        monkeypatch.setattr(native, "build_info", lambda: {"cuda": built})
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: capability)
        monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: driver, raising=False)
        monkeypatch.setattr(
            implementations,
            "_availability",
            lambda kind: dict.fromkeys(implementations.IMPLEMENTATIONS),
        )
        implementations._why_not_on_gpu.cache_clear()

    yield make
    implementations._why_not_on_gpu.cache_clear()


@pytest.mark.parametrize(
    ("capability", "driver", "expected"),
    [
        ((8, 0), 13000, None),
        ((8, 9), 13000, None),  # code for 8.0
        ((9, 0), 13020, None),
        ((10, 3), 13000, None),
        ((12, 0), 13000, None),  # PTX of 10.0
        ((7, 5), 13000, "compute capability 7.5"),
        ((9, 0), 12080, "serves CUDA up to 12.8"),
        ((8, 0), None, None),
    ],
)
def test_what_was_built_and_the_driver_are_compared_with_the_gpu(gpu, capability, driver, expected):
    gpu(capability, driver)
    reasons = implementations.availability("cuda")
    if expected is None:
        assert reasons["cuda"] is None
    else:
        assert expected in reasons["cuda"]
        assert BUILT in reasons["cuda"]
        with pytest.raises(ValueError, match=expected):
            implementations.choose("cuda", device="cuda")
    old = capability < (8, 0)
    assert implementations.choose(device="cuda").name == ("torch" if old else "triton")
    assert (reasons["triton"] is None) != old


def test_no_later_release_is_compiled_from_ptx_than_the_driver_knows(gpu):
    later = BUILT.replace("CUDA 13.0", "CUDA 13.1")
    gpu((12, 0), 13000, later)
    assert "serves CUDA up to 13.0" in implementations.availability("cuda")["cuda"]
    gpu((10, 0), 13000, later)  # has machine code: any driver of the major version will do
    assert implementations.availability("cuda")["cuda"] is None


def test_cuda_operators_are_not_for_gpus_of_amd(gpu, monkeypatch):
    """ROCm's builds of PyTorch call those "cuda" too."""
    gpu((9, 4), None)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    reasons = implementations.availability("cuda")
    assert "NVIDIA" in reasons["cuda"]
    assert reasons["triton"] is None
