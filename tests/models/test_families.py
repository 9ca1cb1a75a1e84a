"""Every family in every wrapper that holds it, against transformers in float64; what cannot be served is refused."""

import pytest

from experiments.families import measure, wrappers_of
from lensdiff.models.inside.wrappers import HookedTransformer
from tests.checkpoints import FAMILIES, MORE

BOUND = 1e-9
# the rotary angles that transformers stretches are rounded to float32 on their way, here and there at another place
ROUNDED = {"phi3_longrope": 1e-7}
# what a family cannot be served with, and the reason: the table of docs/families.md says the same
REFUSED = {
    "gpt_neox_without_bias": {"loads": "transformer-lens cannot hold"},
    "falcon_grouped": {"loads": "transformer-lens cannot hold"},
    "cohere": {"loads": "disagrees with transformers: logits differ"},
    "qwen3_next": {"patterns": "hook_pattern times hook_v is not hook_z"},  # its heads are gated behind the pattern
    "gemma4": {"patterns": "hook_pattern times hook_v is not hook_z"},
}
if HookedTransformer is None:  # the rotation is right in transformer-lens 4
    del REFUSED["cohere"]
CASES = [(family, wrapper) for family in [*FAMILIES, *MORE] for wrapper in wrappers_of(family)]


@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_a_family_is_right_or_refused(family: str, wrapper: str):
    row, refused = measure(family, wrapper), REFUSED.get(family, {})
    if "loads" in refused:
        assert refused["loads"] in row.loads
        return
    assert row.loads == "yes"
    assert row.generation == 0.0
    for name in ("logits", "gains", "patterns", "forward", "reverse"):
        value = getattr(row, name)
        if name in refused:
            assert refused[name] in value
        else:
            assert value <= ROUNDED.get(family, BOUND), name


def test_every_refused_family_is_one_that_is_tried():
    assert set(REFUSED) <= {family for family, _ in CASES}
