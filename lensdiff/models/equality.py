"""Whether two models are the same one: their weights, exactly, and what else decides what they compute.

Weights are compared tensor by tensor, small ones first, so that two models which differ are told apart at once. Where
one model is in memory at a time, a hash of a sample of each tensor is kept from the first load; only if all of those
are equal are both models loaded again and hashed whole.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lensdiff.models.identity import digest_of
from lensdiff.models.view import ModelView

EQUAL_WEIGHTS = "equal weights"  # the row of a pair's differences that says so
SAMPLE = 4096  # entries of a tensor that are hashed when a model is loaded
ROWS = 1024  # that are hashed at once
# of a config: names, and what is for initialising, saving and generating
NOT_THE_FUNCTION = {
    "model_name", "tokenizer_name", "tokenizer_prepends_bos", "default_prepend_bos", "device", "n_devices", "seed",
    "init_weights", "init_mode", "initializer_range", "from_checkpoint", "checkpoint_index", "checkpoint_value",
    "_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache", "bos_token_id",
    "eos_token_id", "pad_token_id", "unk_token_id",
}  # fmt: skip


def _tensors(view: ModelView) -> list[tuple[str, Tensor]]:
    found = [(name, parameter.detach()) for name, parameter in view.model.named_parameters()]
    return sorted(found, key=lambda item: (item[1].numel(), item[0]))


def equal_weights(base: ModelView, tuned: ModelView) -> bool:
    """Return whether all weights of two models are equal; those in different wrappers or dtypes are not.

    A streamed model is equal to one that is streamed too, where all tensors of their files are the same.
    """
    if base is tuned:
        return True
    if streamed := [found.digest for view in (base, tuned) if (found := view.streamed) is not None]:
        return len(streamed) == 2 and streamed[0] == streamed[1]
    if base.model is tuned.model:
        return True
    mine, theirs = _tensors(base), _tensors(tuned)
    return [_shape(item) for item in mine] == [_shape(item) for item in theirs] and all(
        torch.equal(a, b.to(a.device)) for (_, a), (_, b) in zip(mine, theirs, strict=True)
    )


def _shape(item: tuple[str, Tensor]) -> tuple[str, torch.dtype, torch.Size]:
    return item[0], item[1].dtype, item[1].shape


def fingerprint(view: ModelView, *, whole: bool) -> str:
    """Return a hash of all weights, or of a sample of each: where those differ, so do the weights."""
    if view.streamed is not None:
        return view.streamed.digest
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in _tensors(view):
        digest.update(repr((*_shape((name, tensor)), whole)).encode())
        for part in _parts(tensor, whole=whole):
            digest.update(part.contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _parts(tensor: Tensor, *, whole: bool) -> Iterator[Tensor]:
    """Yield a tensor some rows at a time, or a sample spread over it."""
    if whole:
        yield from tensor.split(ROWS) if tensor.ndim else [tensor]
        return
    step = max(1, tensor.numel() // SAMPLE)
    at = torch.arange(0, tensor.numel(), step, device=tensor.device)
    yield tensor[torch.unravel_index(at, tensor.shape)] if tensor.ndim else tensor


def function_of(view: ModelView) -> dict[str, str]:
    """Return what a model's config says of its function, as texts by name."""
    config: Any = view.config
    return {str(k): repr(v) for k, v in config.to_dict().items() if k not in NOT_THE_FUNCTION}


@dataclass(frozen=True)
class Seen:
    """What is known of a model once it was in memory, beside its weights.

    Attributes:
        tokenizer: the digest of its tokenizer.
        stops: the ids that end a response.
        function: what its config says (`function_of`).
        sample: the hash of a sample of its weights, "" where it was not needed.
    """

    tokenizer: str
    stops: tuple[int, ...]
    function: dict[str, str]
    sample: str

    @classmethod
    def of(cls, view: ModelView, *, sample: bool) -> "Seen":
        hashed = fingerprint(view, whole=False) if sample else ""
        return cls(digest_of(view), view.info.eos_token_ids, function_of(view), hashed)


def equal_weights_notice(base: Seen, tuned: Seen) -> str:
    """Return the sentence about a pair of equal weights, with what else can make a difference."""
    others = [] if base.tokenizer == tuned.tokenizer else ["the tokenizer"]
    if set(base.stops) != set(tuned.stops):
        others.append("the end tokens")
    names = base.function.keys() | tuned.function.keys()
    if changed := sorted(name for name in names if base.function.get(name) != tuned.function.get(name)):
        others.append(f"the config ({', '.join(changed)})")
    if not others:
        return "base and tuned have equal weights: every difference below is zero by construction"
    return f"base and tuned have equal weights: any difference below comes from {' and '.join(others)} alone"
