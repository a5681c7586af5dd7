"""What an exhausted memory looks like."""

import pytest
import torch

from energyaware.memory import shortage_of


def test_torchs_own_allocator_on_a_cpu():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert "can't allocate memory: you tried to allocate" in shortage_of(caught.value)


def test_pythons_own():
    with pytest.raises(MemoryError) as caught:
        bytearray(2**60)
    assert shortage_of(caught.value) == "out of memory"


@pytest.mark.parametrize(
    "said",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("NCCL Error 1: unhandled cuda error\nLast error:\nCuda failure 'out of memory'"),
        RuntimeError("Error out of memory at line 380 in file /src/csrc/ops.cu"),
    ],
    ids=str,
)
def test_what_libraries_say_of_gpus(said):
    shortage = shortage_of(said)
    assert shortage in str(said)
    assert "\n" not in shortage


@pytest.mark.parametrize(
    "other",
    [RuntimeError("CUDA error: an illegal memory access"), RuntimeError(""), ValueError("out of memory")],
    ids=repr,
)
def test_other_errors_are_none_of_it(other):
    assert shortage_of(other) is None
