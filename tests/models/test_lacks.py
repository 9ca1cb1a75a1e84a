"""A lack of memory is no word about a block, a method or a file that is kept: it passes as it is."""

import errno

import pytest
import torch

from lensdiff.analyses.attribute import gradients
from lensdiff.models import load_model, view_of
from lensdiff.models.controlling import store
from lensdiff.models.inside import starting
from lensdiff.models.inside.wrappers import wrapper_of
from lensdiff.models.loading import opening
from lensdiff.models.loading.opening import read_tokenizer
from lensdiff.models.loading.stumbles import at_the_door
from lensdiff.results import InputError
from tests.checkpoints import hf_model, tokenizer_of
from tests.lacks import LACKS

EVERY = (*LACKS, MemoryError("full"), OSError(errno.ENOMEM, "Cannot allocate memory"))
KINDS = pytest.mark.parametrize("lack", EVERY, ids=lambda lack: type(lack).__name__)
OF_TORCH = pytest.mark.parametrize("lack", LACKS, ids=lambda lack: type(lack).__name__)


@KINDS
def test_a_file_is_not_refused_for_it(lack, monkeypatch):
    with pytest.raises(type(lack)) as caught, at_the_door("cannot load it"):
        raise lack
    assert caught.value is lack
    with pytest.raises(InputError, match="cannot load it: No such file"), at_the_door("cannot load it"):
        raise FileNotFoundError("No such file")

    def full(**_: object) -> None:
        raise lack

    monkeypatch.setattr(opening.AutoTokenizer, "from_pretrained", full)
    with pytest.raises(type(lack)) as caught:
        read_tokenizer("it")
    assert caught.value is lack


@pytest.fixture(scope="module")
def model():
    return load_model(hf_model("llama"), tokenizer=tokenizer_of(), device="cpu", wrapper="bridge")


@OF_TORCH
def test_a_pass_that_cannot_be_had_is_not_one_that_cannot_begin_at_a_layer(model, lack, monkeypatch):
    wrapper = wrapper_of(model)

    def full(*_: object, **__: object) -> None:
        raise lack

    monkeypatch.setattr(type(wrapper), "__call__", full)
    with pytest.raises(type(lack)) as caught:
        starting._runs(wrapper, torch.tensor([[1, 2]]))
    assert caught.value is lack


@OF_TORCH
def test_a_method_is_not_said_to_be_none_of_the_model(model, lack, monkeypatch):
    view, tokens = view_of(model), torch.tensor([1, 2, 3])
    embedded = view.forward.embed(tokens[None])[0].detach()

    def full(*_: object, **__: object) -> None:
        raise lack

    monkeypatch.setattr(torch.func, "vmap", full)
    with pytest.raises(type(lack)) as caught:
        gradients._generic_tangents(view, tokens, embedded, embedded[:1], tokens[:1], slice(1, 3))
    assert caught.value is lack


def test_a_kept_control_is_not_made_again_for_it(tmp_path, monkeypatch):
    lack = OSError(errno.ENOMEM, "Cannot allocate memory")

    def full(*_: object) -> None:
        raise lack

    monkeypatch.setattr(store, "OnDisk", full)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        store.load(tmp_path, "kept")
