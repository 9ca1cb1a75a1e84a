"""A checkpoint as a view that has weights and no passes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from lensdiff.models.info import ModelInfo
from lensdiff.models.inside.forward import Forward
from lensdiff.models.inside.meaning import Meaning
from lensdiff.models.inside.parts import sizes_of
from lensdiff.models.inside.wrappers import Model
from lensdiff.models.loading.architectures import why_not_hooked
from lensdiff.models.loading.load import info_of
from lensdiff.models.streaming.slices import Slices
from lensdiff.models.streaming.stored import open_stored
from lensdiff.models.streaming.weights import StreamedWeights, read_once, streamed_error
from lensdiff.models.view import ModelView
from lensdiff.results import InputError
from lensdiff.results.printed import printed


class StreamedView(ModelView):
    """A checkpoint of which only weights are read, layer by layer.

    Attributes:
        slices: its layers.
    """

    def __init__(
        self,
        info: ModelInfo,
        tokenizer: PreTrainedTokenizerBase | None,
        slices: Slices,
        dtype: torch.dtype,
        device: str,
        *,
        verified: bool,
    ):
        layers = read_once(slices, info, dtype, device, verified=verified)
        self._streamed = StreamedWeights(slices, lambda: self.info, dtype, device, layers)
        super().__init__(info, tokenizer, weights=self._streamed)
        self.slices = slices

    def __repr__(self) -> str:
        """Return which checkpoint, its sizes, and what can be asked of it."""
        lines = [f"  {self.info.architecture}, {sizes_of(self.weights.sizes)}, streamed: weights alone, no passes"]
        return printed(f"ModelView of {self.info.id}", lines, calls=("weights", "free()"))

    @property
    def forward(self) -> Forward:
        raise streamed_error(self.info.id)

    @property
    def meaning(self) -> Meaning:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What its parts mean, as every layer was measured."""
        return self._streamed.meaning

    @property
    def model(self) -> Model:
        raise streamed_error(self.info.id)

    @property
    def config(self) -> Any:
        return self.slices.stored.config

    @property
    def streamed(self) -> StreamedWeights:
        return self._streamed

    def whole(self) -> ModelView:
        raise streamed_error(self.info.id)

    @property
    def is_made(self) -> bool:
        return False

    def free(self) -> None:
        """Let go of the layer that was read last."""
        self._streamed.free()


def open_streamed(
    source: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    revision: str | None,
    wrapper: str,
    device: str,
    dtype: torch.dtype,
    verify: bool,
) -> StreamedView:
    """Return a checkpoint's view, after reading every layer once; as `load_model` does, in the wrapper that it takes.

    Raises:
        InputError: there is no such checkpoint, it cannot be streamed, or no wrapper does what `transformers` does.
    """
    stored = open_stored(source, revision=revision)
    if tokenizer is None and isinstance(stored.tokenizer, InputError):
        raise stored.tokenizer
    chosen: Any = tokenizer if tokenizer is not None else stored.tokenizer
    why_not = why_not_hooked(stored.config, stored.architecture)
    if wrapper == "hooked" and why_not:
        raise InputError(f"{stored.id} cannot be a HookedTransformer: {why_not}")
    tried = ("hooked", "bridge") if wrapper == "auto" and not why_not else ("bridge" if why_not else wrapper,)
    info = info_of(stored, stored.config, stored.generation, chosen, stored.architecture)
    for kind in tried:
        try:
            return StreamedView(replace(info, wrapper=kind), chosen, Slices(stored), dtype, device, verified=verify)
        except InputError as error:
            if kind == tried[-1]:
                raise
            info = replace(info, notes=(*info.notes, f"a TransformerBridge in place of a HookedTransformer: {error}"))
    raise AssertionError("unreachable")
