"""The lens and the parts of a logit beside those of TransformerLens's own `tools.analysis`, on the same bridges.

3.x has the parts alone, 4.x the lens, too: `make test-tl4` runs this file.

Two conventions differ. It leaves the unembedding's bias out, so its parts add up to the logit less that. And it reads a
head as it leaves W_O: where a norm stands behind attention (Gemma 2) that is before the norm, and its heads do not add
up to its attention; ours are carried through the norm and do. Of OLMo 2 it refuses the parts: no gain can be folded.
"""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from lensdiff import direct_logit_attribution, logit_lens
from lensdiff.analyses.attribute.targets import one_token
from lensdiff.analyses.residual_stream.direct import DirectLogitAttribution
from lensdiff.analyses.residual_stream.forced import Read, read
from lensdiff.models import Model, view_of
from tests.analyses.residual_stream.test_direct import part
from tests.analyses.residual_stream.test_lens import PROMPT, SAID, model_of
from tests.checkpoints import hf_model

analysis: Any = pytest.importorskip(
    "transformer_lens.tools.analysis", reason="this transformer-lens has no tools.analysis"
)
NO_LENS = pytest.mark.skipif(not hasattr(analysis, "logit_lens"), reason="this transformer-lens has no lens (4.x has)")
FOLDED = ("gpt2", "gpt_neox", "llama")  # whose gains fold, and which have no norm behind attention
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-5}  # it computes softmax, and transformers norms, in float32
LAYERS, HEADS = range(2), range(4)


def text_of(model: Model) -> Read:
    return read(view_of(model), PROMPT, SAID, max_new_tokens=1, prepend_bos=None)


@cache
def both(family: str, unit: str) -> tuple[Model, DirectLogitAttribution, dict[str, Tensor]]:
    """A folded model, our parts of its logits against one token, and theirs by label, over the response."""
    model = model_of(family, weights="folded")
    text, rival = text_of(model), one_token(view_of(model), " a")
    found = [
        analysis.direct_logit_attribution(model, text.ids[None], said, rival, unit=unit, pos=text.first + place)
        for place, said in enumerate(text.said.tolist())
    ]
    values = torch.stack([one.attribution[:, 0].detach().double() for one in found], dim=1)
    ours = direct_logit_attribution(model, PROMPT, SAID, against=" a")
    return model, ours, dict(zip(found[0].labels, values, strict=True))


def heads(found: DirectLogitAttribution, layer: int) -> Tensor:
    return torch.stack([part(found, "head", layer, head) for head in HEADS])


@NO_LENS
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma2", "olmo2"])
def test_each_layer_says_what_its_lens_says(family: str):
    model = model_of(family)
    text, found = text_of(model), logit_lens(model, PROMPT, SAID)
    options: dict[str, Any] = {"positions": list(range(text.first, len(text.ids))), "return_type": "log_probs"}
    theirs = analysis.logit_lens(model, text.ids[None], targets=text.said[None], **options)
    assert theirs.labels == ["0_pre", "1_pre", "final_post"]
    torch.testing.assert_close(found.prob, theirs.values[:, 0, :, 0].double().exp(), **CLOSE)
    assert torch.equal(found.rank, 1 + theirs.rank_trajectory()[:, 0]), "it counts ranks from 0"
    whole = analysis.logit_lens(model, text.ids[None], **options).values[:, 0].double()
    kl = (whole[-1].exp() * (whole[-1] - whole)).sum(dim=-1)
    torch.testing.assert_close(found.kl, kl, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.word_ids[found.likely[:, :, 0]], whole.argmax(dim=-1))
    with torch.no_grad():  # and both say of the last layer what transformers says
        logits = hf_model(family, dtype=torch.float64)(text.ids[None]).logits[0, text.first :]
    torch.testing.assert_close(whole[-1], logits.log_softmax(dim=-1), **CLOSE)


@pytest.mark.parametrize("family", [*FOLDED, "gemma2"])
def test_embeddings_mlps_and_attention_add_what_its_components_do(family: str):
    model, ours, theirs = both(family, "component")
    positions = "pos_embed" in theirs
    assert positions == (("pos_embed", None, None) in ours.parts) == (family == "gpt2")
    for name in ("embed", *(["pos_embed"] if positions else [])):
        torch.testing.assert_close(part(ours, name), theirs[name], **CLOSE)
    for layer in LAYERS:
        torch.testing.assert_close(part(ours, "mlp", layer), theirs[f"{layer}_mlp_out"], **CLOSE)
    # its attention has b_O in it, which is ours among the biases; its sum has no bias of the unembedding
    b_U, text = view_of(model).weights.b_U, text_of(model)
    last = torch.zeros(text.n_out, dtype=torch.float64)
    if b_U is not None:
        last = b_U.detach()[text.said] - b_U.detach()[one_token(view_of(model), " a")]
    attention = sum(theirs[f"{layer}_attn_out"] for layer in LAYERS)
    torch.testing.assert_close(
        sum(heads(ours, layer).sum(dim=0) for layer in LAYERS) + part(ours, "bias") - last, attention, **CLOSE
    )
    torch.testing.assert_close(ours.logit - last, torch.stack([*theirs.values()]).sum(dim=0), **CLOSE)


@pytest.mark.parametrize("family", FOLDED)
def test_heads_add_what_its_heads_do(family: str):
    _, ours, theirs = both(family, "head")
    for layer in LAYERS:
        expected = torch.stack([theirs[f"L{layer}H{head}"] for head in HEADS])
        torch.testing.assert_close(heads(ours, layer), expected, **CLOSE)


def test_heads_behind_a_norm_add_up_to_its_attention():
    """Gemma 2 has no bias, so heads are all of attention: layer by layer ours are, and its own are read too early."""
    _, ours, theirs = both("gemma2", "component")
    for layer in LAYERS:
        torch.testing.assert_close(heads(ours, layer).sum(dim=0), theirs[f"{layer}_attn_out"], **CLOSE)
