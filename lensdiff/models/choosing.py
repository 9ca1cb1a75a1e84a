"""What a model would say next: the most likely of some tokens, at each position of a text that it reads."""

import torch
from jaxtyping import Int
from torch import Tensor

from lensdiff.models.view import ModelView
from lensdiff.results import InputError


@torch.no_grad()
def choices_among(
    view: ModelView, ids: Int[Tensor, " pos"], among: Int[Tensor, " some_token"], *, first: int = 0
) -> Int[Tensor, " later_pos"]:
    """Return the choice at each position from `first` on, as a place in `among`.

    Raises:
        InputError: a logit is not finite, so that no token is the most likely.
    """
    logits = view.forward.unembed(view.forward.final(ids[None].to(view.device))[0, first:])
    if not bool(torch.isfinite(logits.amax(dim=-1)).all()):
        raise InputError(f"{view.info.id}: a logit is not finite, so no token is the most likely")
    return logits[:, among.to(logits.device)].argmax(dim=-1).cpu()
