"""Attribution results made by hand, without a model; and tokens that try to break out of a page."""

import itertools
from collections.abc import Sequence

import torch

from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.results import Provenance

PROMPT = ("Write", " a", " poem", " about", " the", " sea")
RESPONSE = ("Blue", " waves", ".")
LONG = "x" * 10_000
HOSTILE = (
    "</script><script>window.ran=1</script>",
    "<img src=x onerror=window.ran=1>",
    "<img/src=x/onerror=window.ran=1>",
    "<!--<script>",
    "'\"><svg onload=window.ran=1>",
    "\u2028window.ran=1\u2029",
    "\u202emirrored\u202c שלום مرحبا",
    "{{ 7 * 7 }}",
    "&lt;img src=x onerror=window.ran=1&gt;",
    LONG,
)


def attribution(
    prompt: Sequence[str] = PROMPT,
    response: Sequence[str] = RESPONSE,
    *,
    scores: torch.Tensor | None = None,
    instruction: int = 3,
    context: int = 1,
    model: str = "tiny",
    prompt_id: str = "p1",
    seed: int = 0,
) -> Attribution:
    """A map whose first tokens are the instruction and whose last are the context; random scores unless given."""
    n, m = len(prompt), len(response)
    starts = [0]
    for token in prompt:
        starts.append(starts[-1] + len(token))
    position = torch.arange(n)
    if scores is None:
        scores = torch.randn(n, m, generator=torch.Generator().manual_seed(seed)) * 0.1
    return Attribution(
        Provenance("attribute", model),
        prompt_id=prompt_id,
        prompt="".join(prompt),
        response="".join(response),
        in_tokens=tuple(prompt),
        out_tokens=tuple(response),
        in_offsets=tuple(itertools.pairwise(starts)),
        response_kind="text",
        merged=False,
        method="forward",
        deletion=None,
        scores=scores,
        targets=torch.full((m,), 0.5),
        probabilities=torch.full((m,), 0.5),
        instruction=position < instruction,
        context=position >= n - context,
    )
