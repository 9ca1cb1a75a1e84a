"""Query-key readings: equal to the attention of a real forward pass of `transformers`, for every family."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensdiff.analyses.heads.qk_reading import QKReading, qk_reading
from lensdiff.models import load_model, load_pair
from lensdiff.results import InputError
from tests.analyses.heads.head_models import N_HEADS, ids_of, known_words, wrapped
from tests.checkpoints import BRIDGED, HOOKED, hf_model, tokenizer_of

WORDS = known_words()
PAIRS = [(WORDS[0], WORDS[1]), (WORDS[1], WORDS[0]), (WORDS[5], WORDS[5]), (WORDS[9], WORDS[20])]
CASES = [(family, "hooked") for family in HOOKED] + [(family, "bridge") for family in BRIDGED]
FIRST = 1  # <s>


def filled(key: str, query: str, length: int) -> torch.Tensor:
    """The first token, the key word over and over, the query word."""
    (k,), (q,) = ids_of([key]), ids_of([query])
    return torch.tensor([[FIRST, *[k] * (length - 2), q]])


def silenced(family: str, layers: int) -> Any:
    """A model whose first layers write nothing, so that words arrive in the next one as they are."""
    hf: Any = hf_model(family)
    blocks = hf.transformer.h if family == "gpt2" else hf.model.layers
    with torch.no_grad():
        for block in blocks[:layers]:
            outputs = (
                (block.attn.c_proj, block.mlp.c_proj)
                if family == "gpt2"
                else (block.self_attn.o_proj, block.mlp.down_proj)
            )
            for output in outputs:
                for parameter in output.parameters():
                    parameter.zero_()
    return hf


@pytest.mark.parametrize(("family", "wrapper"), CASES)
def test_layer_0_is_a_real_forward_pass(family: str, wrapper: Any) -> None:
    hf = hf_model(family)
    with torch.no_grad():
        attended = [hf(filled(k, q, 6), output_attentions=True).attentions[0][0, :, -1].double() for k, q in PAIRS]
    found = qk_reading(wrapped(hf, wrapper), PAIRS, distances=(1, 4, 2), first="<s>", layers=[0])
    assert found.query_pos == 5
    for i, rows in enumerate(attended):
        for j, distance in enumerate((1, 4, 2)):
            key, sink = rows[:, 5 - distance], rows[:, 0]
            # the softmax fixes scores up to a constant: differences of logs are differences of scores
            np.testing.assert_allclose(
                found.score[0, :, i, j] - found.sink_score[0, :, i], (key / sink).log(), atol=1e-4
            )
            np.testing.assert_allclose(found.sink_share[0, :, i, j], sink / (sink + key), atol=1e-5)


@pytest.mark.parametrize(("family", "wrapper"), [("llama", "hooked"), ("gpt2", "hooked"), ("qwen3", "bridge")])
def test_scores_are_those_before_softmax(family: str, wrapper: Any) -> None:
    model = wrapped(hf_model(family), wrapper)
    found = qk_reading(model, PAIRS[:1], distances=(1, 2), first="<s>")
    name = "blocks.0.attn.hook_attn_scores"
    with torch.no_grad():
        _, cache = model.run_with_cache(filled(*PAIRS[0], 4), names_filter=[name])
    scores = cache[name][0, :, -1]
    torch.testing.assert_close(found.score[0, :, 0], scores[:, [2, 1]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.sink_score[0, :, 0], scores[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "wrapper"), [("llama", "hooked"), ("llama", "bridge"), ("gpt2", "hooked"), ("gemma", "bridge")]
)
def test_a_deeper_layer_reads_words_as_they_are(family: str, wrapper: Any) -> None:
    hf = silenced(family, 1)
    with torch.no_grad():
        rows = [hf(filled(k, q, 5), output_attentions=True).attentions[1][0, :, -1].double() for k, q in PAIRS]
    found = qk_reading(wrapped(hf, wrapper), PAIRS, distances=(3, 1), first="<s>")
    for i, row in enumerate(rows):
        np.testing.assert_allclose(found.sink_share[1, :, i, 0], row[:, 0] / (row[:, 0] + row[:, 1]), atol=1e-5)
        np.testing.assert_allclose(found.sink_share[1, :, i, 1], row[:, 0] / (row[:, 0] + row[:, 3]), atol=1e-5)
    # with a first layer that writes, the words' own scores stay and the first token's change: it is real
    real = qk_reading(wrapped(hf_model(family), wrapper), PAIRS, distances=(3, 1), first="<s>")
    torch.testing.assert_close(real.score, found.score, rtol=1e-4, atol=1e-5)
    assert (real.sink_score[1] - found.sink_score[1]).abs().max() > 0.1


def test_rotary_scores_depend_on_the_distance_alone_and_learned_ones_do_not() -> None:
    rotary = wrapped(hf_model("llama"))
    near, far = (qk_reading(rotary, PAIRS, distances=(2,), query_pos=at) for at in (3, 20))
    torch.testing.assert_close(near.score, far.score, rtol=1e-4, atol=1e-5)
    assert (near.sink_score - far.sink_score).abs().max() > 0.05
    assert not torch.allclose(near.score, qk_reading(rotary, PAIRS, distances=(3,)).score, atol=0.05)
    learned = wrapped(hf_model("gpt2"))
    near, far = (qk_reading(learned, PAIRS, distances=(2,), query_pos=at) for at in (3, 20))
    assert (near.score - far.score).abs().max() > 0.01


@pytest.mark.parametrize("wrapper", ["hooked", "bridge"])
def test_a_sliding_window_hides_what_is_too_far(wrapper: Any) -> None:
    found = qk_reading(wrapped(hf_model("mistral"), wrapper), PAIRS, distances=(15, 16, 1))  # a window of 16 keys
    assert found.query_pos == 17
    assert found.score[..., 0].isfinite().all()
    assert found.score[..., 1].isneginf().all()
    assert found.sink_score.isneginf().all()
    assert (found.sink_share == 0).all()
    edge = qk_reading(wrapped(hf_model("mistral"), wrapper), PAIRS, distances=(1,), query_pos=15)
    assert ((edge.sink_share > 0) & (edge.sink_share < 1)).all()
    assert len(found.top(999)) == 2 * N_HEADS * len(PAIRS) * 2  # without what is hidden


def test_words_of_several_tokens_are_their_mean() -> None:
    model = wrapped(hf_model("llama"))
    found = qk_reading(model, [("unheard-of", WORDS[1])])
    tokenizer = tokenizer_of()
    ids = tokenizer(" unheard-of", add_special_tokens=False)["input_ids"]
    ids = ids[1:] if ids[0] == tokenizer.convert_tokens_to_ids("Ġ") else ids
    assert len(ids) > 1
    hf: Any = hf_model("llama")
    with torch.no_grad():  # a token of its own with that mean
        weight = hf.model.embed_tokens.weight
        weight[ids_of([WORDS[0]])] = weight[ids].mean(dim=0)
    planted = qk_reading(wrapped(hf), [PAIRS[0]])
    torch.testing.assert_close(planted.score, found.score, rtol=1e-4, atol=1e-5)


def test_the_first_token_is_the_checkpoints_own() -> None:
    with_bos = load_model(hf_model("llama"), tokenizer=tokenizer_of(True), verify=False)
    assert qk_reading(with_bos, PAIRS).first_token == "<s>"
    assert qk_reading(wrapped(hf_model("llama")), PAIRS).first_token == "<s>"  # not put before a text, but known
    assert qk_reading(wrapped(hf_model("llama")), PAIRS, first="Ġthe").first_token == "Ġthe"
    assert not torch.equal(qk_reading(with_bos, PAIRS).sink_score, qk_reading(with_bos, PAIRS, first="</s>").sink_score)


def test_half_precision_is_read_and_shown() -> None:
    half = qk_reading(wrapped(hf_model("llama", dtype=torch.bfloat16), dtype=torch.bfloat16), PAIRS, distances=(1, 3))
    exact = qk_reading(wrapped(hf_model("llama", dtype=torch.bfloat16).float()), PAIRS, distances=(1, 3))
    assert half.score.dtype == torch.float32
    assert float((half.score - exact.score).norm() / exact.score.norm()) < 0.05
    assert np.isfinite(half.to_df().score).all()


def test_chosen_layers_heads_and_chunks() -> None:
    model = wrapped(hf_model("llama"))
    whole = qk_reading(model, PAIRS, distances=(1, 3))
    assert whole.score.shape == (2, N_HEADS, len(PAIRS), 2)
    some = qk_reading(model, PAIRS, distances=(1, 3), layers=[1], heads=[2, 0], chunk=1)
    torch.testing.assert_close(some.score[0], whole.score[1, [2, 0]], rtol=1e-4, atol=1e-5)
    turned = qk_reading(model, PAIRS, distances=(3, 1), layers=[1, 0])
    torch.testing.assert_close(turned.score.flip(0).flip(-1), whole.score, rtol=1e-4, atol=1e-5)
    frame = some.to_df()
    assert list(frame.columns) == [
        "layer", "head_index", "key_word", "query_word", "distance", "score", "sink_share",
    ]  # fmt: skip
    assert len(frame) == 2 * len(PAIRS) * 2
    row = frame[(frame.head_index == 0) & (frame.distance == 3) & (frame.key_word == PAIRS[3][0])].iloc[0]
    assert (row.layer, row.query_word) == (1, PAIRS[3][1])
    assert row.score == pytest.approx(float(some.score[0, 1, 3, 1]))
    top = whole.top(2)
    assert top.sink_share.tolist() == sorted(whole.to_df().sink_share)[:2]


def test_models_are_unchanged_and_controls_are_models() -> None:
    pair = load_pair(wrapped(hf_model("llama")), wrapped(hf_model("llama", seed=1)))
    once = qk_reading(pair.base, PAIRS)
    assert torch.equal(qk_reading(pair.base, PAIRS).score, once.score)
    assert torch.equal(qk_reading(pair.control("self", 0), PAIRS).score, once.score)
    control = pair.control("norm", 0)
    assert not torch.equal(qk_reading(control, PAIRS).score, once.score)
    control.free()


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        ([], {}, "at least one pair of words, given none"),
        (PAIRS, {"distances": ()}, r"distances=\[\] are not distinct numbers of at least 1"),
        (PAIRS, {"distances": (0,)}, r"distances=\[0\]"),
        (PAIRS, {"distances": (2, 2)}, r"distances=\[2, 2\]"),
        (PAIRS, {"query_pos": 1}, "query_pos is 1, expected more than the largest distance, 1"),
        (PAIRS, {"distances": (200,)}, "less than the model's 128 positions"),
        (PAIRS, {"chunk": 0}, "chunk=0 given, expected at least 1"),
        (PAIRS, {"layers": [2]}, r"layers=\[2\] given"),
        (PAIRS, {"first": "<none>"}, "has no token '<none>'"),
        ([("", "sea")], {}, "the word '' maps to no token"),
    ],
)
def test_unusable_input_is_refused(pairs: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        qk_reading(wrapped(hf_model("llama")), pairs, **options)


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    found = qk_reading(wrapped(hf_model("mistral")), PAIRS, distances=(1, 16))
    loaded = QKReading.load(found.save(tmp_path / "qk.safetensors"))
    assert loaded.to_df().equals(found.to_df())
    assert (loaded.first_token, loaded.query_pos) == (found.first_token, 17)
