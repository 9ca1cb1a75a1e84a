"""Log-probabilities of forced responses: transformers' own, read together with padding as one at a time."""

from typing import Any

import numpy as np
import pytest
import torch

from lensdiff.models import ModelView, forced_reading, load_model, view_of
from lensdiff.models.forced_reading import Reading, mean_log_probs
from lensdiff.models.inside.precision import double_precision
from tests.checkpoints import VOCABULARY, hf_model, tokenizer_of

OPTIONS: dict[str, Any] = {"device": "cpu", "verify": False, "dtype": "float64"}


def view_and_model(family: str, *, left: bool = False, **options: Any) -> tuple[ModelView, Any]:
    tokenizer = tokenizer_of(True)
    if left:
        tokenizer = type(tokenizer)(
            tokenizer_object=tokenizer.backend_tokenizer,
            bos_token="<s>",
            eos_token="</s>",
            pad_token="<pad>",
            padding_side="left",
        )
    model = load_model(hf_model(family, dtype=torch.float64), tokenizer=tokenizer, **(OPTIONS | options))
    return view_of(model), hf_model(family, dtype=torch.float64)


def drawn(n: int = 24, *, shortest: int = 9, longest: int = 30) -> list[Reading]:
    """Readings of random tokens, id 0, the padding's, among them also first and last."""
    rng, found = np.random.default_rng(0), []
    for i in range(n):
        length = int(rng.integers(shortest, longest + 1))
        ids = rng.integers(3, VOCABULARY, length)
        ids[[0, length // 2, -1][i % 3]] = 0
        found.append(Reading(tuple(ids.tolist()), int(rng.integers(1, length))))
    return found


def one_at_a_time(view: ModelView, readings: list[Reading]) -> list[float]:
    return [float(mean_log_probs(view, [reading])[0]) for reading in readings]


def counted(view: ModelView, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The shapes of what the model reads from here on."""
    shapes: list[tuple[int, int]] = []
    final = type(view.forward).final

    def seen(self: Any, tokens: torch.Tensor) -> Any:
        shapes.append(tuple(tokens.shape))
        return final(self, tokens)

    monkeypatch.setattr(type(view.forward), "final", seen)
    return shapes


@pytest.mark.parametrize("left", [False, True], ids=["padded right", "tokenizer pads left"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mistral"])
def test_padded_batches_are_transformers_own_numbers_one_at_a_time(
    family: str, left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, model = view_and_model(family, left=left, wrapper="bridge")
    readings, expected = drawn(), []
    for ids, n in readings:
        with torch.no_grad(), double_precision(True):
            log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        places = range(len(ids) - n, len(ids))
        expected.append(float(np.mean([float(log_probs[i - 1, ids[i]]) for i in places])))
    shapes = counted(view, monkeypatch)
    found = mean_log_probs(view, readings)
    assert 1 < len(shapes) < len(readings) / 2, "read together"
    assert sum(rows for rows, _ in shapes) == len(readings)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found, one_at_a_time(view, readings), rtol=0, atol=1e-9)
    assert found.dtype == torch.float64


def test_what_is_read_together_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    view, _ = view_and_model("llama")
    readings = drawn()
    expected = mean_log_probs(view, readings)
    for name, value in (
        ("MOST_PADDING", 1.0),
        ("MAX_TOKENS", 60),
        ("MAX_BYTES", 4 * VOCABULARY * 40),
        ("MAX_BYTES", 1),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(forced_reading, name, value)
            shapes = counted(view, patched)
            np.testing.assert_allclose(mean_log_probs(view, readings), expected, rtol=0, atol=1e-9)
        if name == "MOST_PADDING":  # only equal lengths: a shape for each length
            assert sorted(length + 1 for _, length in shapes) == sorted({len(ids) for ids, _ in readings})
        elif name == "MAX_TOKENS":
            assert all(rows * (length + 1) <= 60 or rows == 1 for rows, length in shapes)
            assert any(rows == 2 for rows, _ in shapes)
        elif value == 1:
            assert [rows for rows, _ in shapes] == [1] * len(readings)
        else:
            assert 1 < max(rows for rows, _ in shapes) < 24
    shapes = counted(view, monkeypatch)
    mean_log_probs(view, [Reading(tuple(range(3, 13)), 2), Reading(tuple(range(3, 15)), 2), Reading((3,) * 16, 2)])
    assert [rows for rows, _ in shapes] == [2, 1], "16 tokens are more than 1.25 times 10"


def test_no_reading_has_no_number_and_the_order_is_kept() -> None:
    view, _ = view_and_model("llama")
    readings = drawn(5)
    found = mean_log_probs(view, [None, *readings[:2], None, *readings[2:]])
    assert found.isnan().tolist() == [True, False, False, True, False, False, False]
    np.testing.assert_allclose(found[[1, 2, 4, 5, 6]], one_at_a_time(view, readings), rtol=0, atol=1e-9)
    assert mean_log_probs(view, []).shape == (0,)
    assert mean_log_probs(view, [None]).isnan().all()
