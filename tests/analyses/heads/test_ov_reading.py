"""OV components: numpy's decomposition, planted read and write words, families against `transformers` weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensdiff.analyses.heads.ov_reading import OV_SIDES, POLES, OVReading, ov_changes, ov_directions, ov_reading
from lensdiff.models import load_pair
from lensdiff.results import InputError
from tests.analyses.heads.head_models import N_HEADS, N_LAYERS, ids_of, known_words, wrapped
from tests.checkpoints import hf_model

WORDS = known_words()
FAMILIES = [("llama", "hooked"), ("llama", "bridge"), ("gpt2", "hooked"), ("gemma", "bridge"), ("olmo2", "bridge")]


def ov_of(family: str, hf: Any, layer: int, head: int) -> np.ndarray:
    """W_OV of one head, [d_model, d_model], with the gain on its input side, from the `transformers` model."""
    if family == "gpt2":
        block = hf.transformer.h[layer]
        W_V = np.split(block.attn.c_attn.weight.detach().double().numpy(), 3, axis=1)[2]
        W_O, gain = block.attn.c_proj.weight.detach().double().numpy(), block.ln_1.weight.detach().double().numpy()
        part = slice(head * 8, head * 8 + 8)
        return gain[:, None] * W_V[:, part] @ W_O[part]
    block = hf.model.layers[layer]
    W_V = block.self_attn.v_proj.weight.detach().double().numpy().T
    W_O = block.self_attn.o_proj.weight.detach().double().numpy().T
    d_head = len(W_O) // N_HEADS
    own = head // (N_HEADS * d_head // W_V.shape[1])
    gain = 1.0
    if family != "olmo2":
        gain = block.input_layernorm.weight.detach().double().numpy() + (1.0 if family == "gemma" else 0.0)
        gain = gain[:, None]
    return gain * W_V[:, own * d_head : (own + 1) * d_head] @ W_O[head * d_head : (head + 1) * d_head]


def vocabulary_of(family: str, hf: Any) -> tuple[np.ndarray, np.ndarray]:
    """Unit input and (gained) output embeddings of the words."""
    E, U = (
        m().weight.detach().double().numpy()[ids_of(WORDS)] for m in (hf.get_input_embeddings, hf.get_output_embeddings)
    )
    final = (hf.transformer.ln_f if family == "gpt2" else hf.model.norm).weight.detach().double().numpy()
    U = U * (final + 1.0 if family == "gemma" else final)
    return E / np.linalg.norm(E, axis=1, keepdims=True), U / np.linalg.norm(U, axis=1, keepdims=True)


def test_directions_are_those_of_the_whole_product() -> None:
    generator = torch.Generator().manual_seed(0)
    W_V, W_O = torch.randn(3, 20, 6, generator=generator), torch.randn(3, 6, 20, generator=generator)
    found = ov_directions(W_V, W_O, k=6)
    for head in range(3):
        product = W_V[head] @ W_O[head]
        np.testing.assert_allclose(found.singular_values[head], np.linalg.svd(product.numpy())[1][:6], rtol=1e-4)
        rebuilt = found.read[head].T @ torch.diag(found.singular_values[head]) @ found.write[head]
        torch.testing.assert_close(rebuilt, product, rtol=1e-4, atol=1e-4)
        for side in (found.read[head], found.write[head]):
            torch.testing.assert_close(side @ side.T, torch.eye(6), rtol=0, atol=1e-5)
    assert ov_directions(W_V, W_O, k=2).read.shape == (3, 2, 20)


@pytest.mark.parametrize(("family", "wrapper"), FAMILIES)
def test_every_family_against_the_whole_matrix(family: str, wrapper: Any) -> None:
    hf = hf_model(family)
    E, U = vocabulary_of(family, hf)
    expected = {}
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            u, s, vh = np.linalg.svd(ov_of(family, hf, layer, head))
            expected[layer, head] = (u[:, :2].T @ E.T, vh[:2] @ U.T, s)
    result = ov_reading(wrapped(hf, wrapper), WORDS, components=2, top_words=5)
    for (layer, head), (read, write, s) in expected.items():
        np.testing.assert_allclose(result.singular_values[layer, head], s[:2], rtol=1e-4)
        np.testing.assert_allclose(result.share[layer, head], s[:2] ** 2 / (s**2).sum(), rtol=1e-4)
        for component in range(2):
            sign = np.sign(read[component][np.abs(read[component]).argmax()])
            for i, scores in enumerate((sign * read[component], sign * write[component])):
                for j, pole in enumerate(POLES):
                    best = np.argsort(-pole * scores)[:5]
                    np.testing.assert_allclose(result.score[layer, head, component, i, j], scores[best], atol=1e-4)
                    assert result.words_of(layer, head, component, OV_SIDES[i], pole) == tuple(WORDS[b] for b in best)


def test_planted_words_are_read_and_written() -> None:
    hf: Any = hf_model("llama", tie_word_embeddings=False)
    basis = torch.eye(32)
    ids = ids_of(WORDS[:30])
    with torch.no_grad():
        hf.model.embed_tokens.weight.zero_()
        hf.model.embed_tokens.weight[ids] = basis[:30]
        hf.lm_head.weight.zero_()
        hf.lm_head.weight[ids] = basis[:30].flip(0)
        block = hf.model.layers[1]
        block.self_attn.v_proj.weight.zero_()
        block.self_attn.o_proj.weight.zero_()
        # head 2 (of group 1): reads word 4 and writes word 7, strongly; reads word 5 and writes against word 9
        gain = block.input_layernorm.weight
        block.self_attn.v_proj.weight[8] = 3 * basis[4] / gain
        block.self_attn.v_proj.weight[9] = 2 * basis[5] / gain
        block.self_attn.o_proj.weight[:, 16] = basis[29 - 7]
        block.self_attn.o_proj.weight[:, 17] = -basis[29 - 9]
    result = ov_reading(wrapped(hf), WORDS[:30], components=2, top_words=1)
    np.testing.assert_allclose(result.singular_values[1, 2], [3.0, 2.0], rtol=1e-5)
    assert result.words_of(1, 2, 0, "read", 1) == (WORDS[4],)
    assert result.words_of(1, 2, 0, "write", 1) == (WORDS[7],)
    assert result.words_of(1, 2, 1, "read", 1) == (WORDS[5],)
    assert result.words_of(1, 2, 1, "write", -1) == (WORDS[9],)
    assert result.share[1, 0].tolist() == [0.0, 0.0]  # a head without weights
    top = result.top(1)
    assert (top.layer[0], top.reads[0]) != (1, "")
    row = result.top(99)
    row = row[(row.layer == 1) & (row.head_index == 2) & (row.component == 0)].iloc[0]
    assert (row.reads, row.writes) == (WORDS[4], WORDS[7])


def test_options_and_the_table() -> None:
    model = wrapped(hf_model("llama"))
    whole = ov_reading(model, WORDS)
    assert whole.word_index.shape == (2, 4, 3, 2, 2, 10)
    some = ov_reading(model, WORDS, layers=[1], heads=[3, 0], components=2, top_words=4)
    torch.testing.assert_close(some.score[0], whole.score[1, [3, 0], :2, :, :, :4])
    frame = some.to_df()
    assert list(frame.columns) == [
        "layer", "head_index", "component", "singular_value", "share", "side", "pole", "rank", "word", "score",
    ]  # fmt: skip
    assert len(frame) == 2 * 2 * 2 * 2 * 4
    row = frame[(frame.head_index == 0) & (frame.component == 1) & (frame.side == "write") & (frame.pole == -1)]
    assert tuple(row.word) == some.words_of(1, 0, 1, "write", -1)
    assert list(row["rank"]) == [1, 2, 3, 4]
    assert (np.diff(row.score) >= 0).all()
    clipped = ov_reading(model, WORDS[:5], components=99, top_words=99)
    assert clipped.word_index.shape == (2, 4, 8, 2, 2, 5)
    assert (clipped.provenance.options["components"], clipped.provenance.options["top_words"]) == (8, 5)
    np.testing.assert_allclose(clipped.share.sum(dim=-1), 1.0, rtol=1e-5)


def test_half_precision_and_controls_are_read_too() -> None:
    half = ov_reading(wrapped(hf_model("llama", dtype=torch.bfloat16), dtype=torch.bfloat16), WORDS)
    exact = ov_reading(wrapped(hf_model("llama", dtype=torch.bfloat16).float()), WORDS)
    torch.testing.assert_close(half.singular_values, exact.singular_values, rtol=1e-3, atol=1e-4)
    pair = load_pair(wrapped(hf_model("llama")), wrapped(hf_model("llama", seed=1)))
    same = ov_reading(pair.control("self", 0), WORDS)
    assert torch.equal(same.score, ov_reading(pair.base, WORDS).score)
    assert not torch.equal(ov_reading(pair.control("norm", 0), WORDS).score, same.score)


def test_changes_between_the_models() -> None:
    base = ov_reading(wrapped(hf_model("llama")), WORDS, top_words=5)
    same = ov_changes(base, base)
    assert (same.shared == 1.0).all()
    assert (same.component == same.tuned_component).all()
    assert (same.gained == "").all()
    # order of the components and their poles carry no meaning
    turned = OVReading(
        base.provenance, base.layers, base.heads, base.words, base.singular_values, base.share,
        base.word_index.flip(2).flip(4), base.score.flip(2).flip(4),
    )  # fmt: skip
    back = ov_changes(base, turned)
    assert (back.shared == 1.0).all()
    assert (back.tuned_component == 2 - back.component).all()
    hf: Any = hf_model("llama")
    with torch.no_grad():
        hf.model.layers[0].self_attn.o_proj.weight[:, 8:16] = torch.randn(32, 8)
    found = ov_changes(base, ov_reading(wrapped(hf), WORDS, top_words=5))
    changed = (found.layer == 0) & (found.head_index == 1)
    assert (found.shared[~changed] == 1.0).all()
    assert (found.shared[changed] < 1.0).all()
    row = found[changed].iloc[0]
    assert len(row.gained.split(", ")) == len(row.lost.split(", ")) == round(20 * (1 - row.shared))
    assert all(word.split(" ", 1)[0] in ("read+", "read-", "write+", "write-") for word in row.gained.split(", "))


def test_unusable_input_is_refused() -> None:
    model = wrapped(hf_model("llama"))
    base = ov_reading(model, WORDS)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"components": 0}, "components=0 given, expected at least 1"),
        ({"top_words": 0}, "top_words=0 given, expected at least 1"),
        ({"layers": [2]}, r"layers=\[2\] given"),
        ({"heads": [4]}, r"heads=\[4\] given"),
    ]
    for options, message in refused:
        with pytest.raises(InputError, match=message):
            ov_reading(model, WORDS, **options)
    with pytest.raises(InputError, match="side 'key' was not read, available: read, write"):
        base.words_of(0, 0, 0, "key", 1)
    with pytest.raises(InputError, match="layer 9 was not read, available: 0, 1"):
        base.words_of(9, 0, 0, "read", 1)
    with pytest.raises(InputError, match="other heads"):
        ov_changes(base, ov_reading(model, WORDS, heads=[0]))
    with pytest.raises(InputError, match=r"components of shapes \(3, 2, 2, 10\) and \(2, 2, 2, 10\)"):
        ov_changes(base, ov_reading(model, WORDS, components=2))


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    found = ov_reading(wrapped(hf_model("llama")), WORDS)
    loaded = OVReading.load(found.save(tmp_path / "ov.safetensors"))
    assert loaded.to_df().equals(found.to_df())
    assert loaded.provenance == found.provenance
