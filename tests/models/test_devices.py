"""What differs between devices that this machine may not have: their memory, and float64."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lensdiff.models import load_model, view_of
from lensdiff.models.inside.points import Point
from lensdiff.models.inside.precision import as_double
from lensdiff.models.loading.devices import whole_products
from lensdiff.models.memory import available_memory
from tests.checkpoints import hf_model, tokenizer_of


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


@pytest.mark.parametrize("wrapper", ["hooked", "bridge"])
def test_tokens_and_mask_go_to_the_models_device(wrapper, monkeypatch):
    forward = view_of(load_model(hf_model("llama"), tokenizer=tokenizer_of(), wrapper=wrapper, device="cpu")).forward
    elsewhere, given = replace(forward.sizes, device=torch.device("meta")), []
    monkeypatch.setattr(forward.wrapper, "sizes", lambda: elsewhere)
    logits = torch.zeros(1, 3, elsewhere.d_vocab)
    monkeypatch.setattr(type(forward.wrapper), "__call__", lambda _, *read: given.append(read) or logits)
    tokens = torch.tensor([[3, 4, 5]])
    forward.run(tokens, read=[Point("logits")], mask=torch.tensor([[0, 1, 1]]))
    forward.run(tokens, read=[Point("logits")])
    assert [[None if x is None else x.device.type for x in read] for read in given] == [
        ["meta", "meta"],
        ["meta", None],
    ]


@pytest.fixture
def rounding():
    """A program that lets products of float32 be rounded."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def test_no_product_is_rounded_while_it_is_asked_for_and_the_programs_choice_comes_back(rounding):
    with whole_products():
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("dtype", "said"), [("float32", 1), ("float64", 0)])
def test_a_model_whose_products_would_be_rounded_says_so(rounding, dtype, said, caplog):
    load_model(hf_model("llama"), tokenizer=tokenizer_of(), dtype=dtype, device="cpu")
    lines = [line for line in caplog.messages if "set_float32_matmul_precision is 'high'" in line]
    assert len(lines) == said
