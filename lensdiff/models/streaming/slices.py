"""One layer of a checkpoint as a model of its own, so that a layer is read by the code that reads whole models.

A slice is the checkpoint's architecture with its own config, one layer and the first few rows of the vocabulary (or all
of them): a wrapper takes it over, its meaning is measured on it and its logits are held against those of
`transformers`, as for a whole model. What depends on a layer's number in the config (a list with an entry a layer) is
taken along.
"""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor
from transformers import AutoModelForCausalLM

from lensdiff.models.loading.opening import EMPTY_OPTIONS
from lensdiff.models.loading.stumbles import at_the_door, few
from lensdiff.models.streaming.stored import Stored
from lensdiff.results import InputError

VOCABULARY = 64  # rows of it that a slice has, where they are not asked for
AT_ONCE = 2**22  # numbers of which it is asked whether they are finite, which takes more memory than they have
_NUMBERED = re.compile(r"^(.*?\.)(\d+)(\..*)$")  # the first number in a parameter's name is its layer's


@dataclass(frozen=True)
class Slices:
    """The layers of one checkpoint; see the module."""

    stored: Stored

    @property
    def n_layers(self) -> int:
        return int(self.stored.config.get_text_config().num_hidden_layers)

    @property
    def d_vocab(self) -> int:
        """The rows of the embedding, which may be more than there are tokens."""
        return int(self.stored.empty.get_input_embeddings().weight.shape[0])

    def build(
        self,
        layer: int,
        dtype: torch.dtype,
        *,
        whole_vocabulary: bool = False,
        known: bool = False,
        seen: Callable[[str, Tensor], None] = lambda name, value: None,
    ) -> Any:
        """Return a `transformers` model of one layer, with the values of that layer and of what is outside of all.

        Args:
            whole_vocabulary: give it all rows of the embeddings, and not the first few.
            known: its values have been found finite: of a mapped file only what is asked for is then ever read.
            seen: is shown the layer's own tensors as they are stored.

        Raises:
            InputError: the architecture cannot be cut into layers, a tensor cannot be read, or a value is not finite.
        """
        rows = self.d_vocab if whole_vocabulary else min(VOCABULARY, self.d_vocab)
        config = self._config(layer, rows)
        with at_the_door(f"{self.stored.id} cannot be streamed"), init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, **EMPTY_OPTIONS)
        cut = _vocabulary_names(model)
        state = {}
        for name, due in model.state_dict().items():
            source = _NUMBERED.sub(lambda found: f"{found[1]}{layer}{found[3]}", name)
            if source not in self.stored.same:
                raise InputError(
                    f"{self.stored.id} cannot be streamed: one layer of it needs {name}, which is not there"
                )
            value = self.stored.read(source, rows if name in cut and not whole_vocabulary else None)
            if value.shape != due.shape:
                raise InputError(
                    f"{self.stored.id} cannot be streamed: {source} of shape {tuple(value.shape)} does not fit a model "
                    f"of one layer, which needs {tuple(due.shape)}"
                )
            if not known and not all(bool(part.isfinite().all()) for part in value.reshape(-1).split(AT_ONCE)):
                raise InputError(f"weight {source} of the checkpoint is not finite (NaN or infinity)")
            if _NUMBERED.match(source):
                seen(source, value)
            state[name] = value.to(dtype)
        model.load_state_dict(state, assign=True)
        model.tie_weights()
        if lacking := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
            raise InputError(f"{self.stored.id} cannot be streamed: nothing was read for {few(lacking)}")
        return model.eval().requires_grad_(True)

    def outside(self) -> list[str]:
        """Return the names of the tensors that are of no layer, each once."""
        return sorted(name for name in set(self.stored.same.values()) if not _NUMBERED.match(name))

    def _config(self, layer: int, rows: int) -> Any:
        config = copy.deepcopy(self.stored.config)
        text, n_layers = config.get_text_config(), self.n_layers
        for key, value in vars(text).copy().items():
            if isinstance(value, list | tuple) and len(value) == n_layers and not key.startswith("_"):
                setattr(text, key, [value[layer]])
        text.num_hidden_layers = 1
        text.vocab_size = rows
        text.pad_token_id = None  # beyond the rows, it would be none
        return config


def _vocabulary_names(model: Any) -> set[str]:
    """Return the names of what has a row for each entry of the vocabulary."""
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    there: list[Tensor] = [parameter for module in modules if module is not None for parameter in module.parameters()]
    return {
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if any(parameter is other for other in there)
    }
