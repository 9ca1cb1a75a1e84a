"""What differs between devices that this machine may not have: their memory, and float64."""

from types import SimpleNamespace

import torch

from lensdiff.models.inside.precision import as_double
from lensdiff.models.memory import available_memory


def test_free_memory_of_cuda_holds_what_torch_keeps_for_itself(monkeypatch):
    known = {"mem_get_info": (1000, 9000), "memory_reserved": 700, "memory_allocated": 300}
    for name, value in known.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert available_memory(torch.device("cuda")) == 1000 + 400


class WithoutDouble(torch.Tensor):
    """A tensor as on Apple's devices: no float64 there, but on the CPU."""

    @property
    def device(self):
        return SimpleNamespace(type="mps")

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_float64_is_had_on_the_cpu_where_the_device_has_none():
    values = torch.tensor([1.0, 0.1])
    found = as_double(values.as_subclass(WithoutDouble))
    assert type(found) is torch.Tensor
    assert found.dtype == torch.float64
    assert torch.equal(found, values.double())
