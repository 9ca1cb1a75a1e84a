"""Sub-tokens and mean embeddings of words against the tokenizer and a plain loop."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lensdiff.models import ModelInfo, ModelView
from lensdiff.models.words import WordTokens, word_embeddings, word_tokens, words_of
from lensdiff.results import InputError
from tests.checkpoints import VOCABULARY, tokenizer_of

WORDS = ("sea", "moon", "Translate", "bridge", "unheard-of", "日本")


class TinyView(ModelView):
    """A view of which only the tokenizer and the size of the embedding are read."""

    def __init__(self, tokenizer: Any, d_vocab: int):
        super().__init__(ModelInfo("tiny", "", "hooked"), tokenizer)
        self._size = d_vocab

    @property
    def d_vocab(self) -> int:
        return self._size


def view_with(tokenizer: Any, d_vocab: int = VOCABULARY) -> ModelView:
    return TinyView(tokenizer, d_vocab)


def unigram(vocabulary: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose pieces carry the other boundary mark, with an unknown token."""
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in vocabulary], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize("bos", [False, True])
def test_a_word_is_what_follows_a_space_without_special_tokens(bos: bool) -> None:
    tokenizer = tokenizer_of(bos)
    tokens = word_tokens(view_with(tokenizer), WORDS)
    assert tokens.words == WORDS
    assert not tokens.excluded
    for i, word in enumerate(WORDS):
        pieces = list(tokenizer.convert_ids_to_tokens(tokens.of(i)))
        assert tokenizer.convert_tokens_to_string(pieces).strip() == word
        assert "<s>" not in pieces
        assert pieces[0] != "Ġ"
    # the character piece "Ġ" stood alone before a word of bytes, and only there
    assert tokenizer(" 日本", add_special_tokens=False)["input_ids"][1:] == tokens.of(5)
    assert tokenizer.convert_ids_to_tokens(tokens.of(0))[0].startswith("Ġ")


def test_the_other_boundary_mark_is_dropped_only_when_it_stands_alone() -> None:
    tokenizer = unigram(["<unk>", "▁", "▁sea", "moon", "s"])
    tokens = word_tokens(view_with(tokenizer), ["sea", "seas", "moon"])
    found = [tokenizer.convert_ids_to_tokens(tokens.of(i)) for i in range(3)]
    assert found == [["▁sea"], ["▁sea", "s"], ["moon"]]


def test_words_without_a_token_are_excluded_and_recorded() -> None:
    tokenizer = unigram(["<unk>", "▁", "▁sea", "moon", "late"])
    # nothing but the boundary; an unknown piece; a token beyond the embedding
    tokens = word_tokens(view_with(tokenizer, d_vocab=4), ["", "sea", "xyz", "moonxyz", "late", "moon"])
    assert tokens.words == ("sea", "moon")
    assert tokens.excluded == ("", "xyz", "moonxyz", "late")
    assert tokens.counts.tolist() == [1, 1]


@pytest.mark.parametrize("chunk", [1, 4, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_embeddings_are_the_mean_of_the_rows(chunk: int, dtype: torch.dtype) -> None:
    matrix = torch.randn(VOCABULARY, 16, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(1))
    tokens = word_tokens(view_with(tokenizer_of()), WORDS)
    found = word_embeddings(matrix, tokens, dtype=dtype, chunk=chunk)
    expected = torch.stack([matrix[tokens.of(i)].double().mean(0) for i in range(len(WORDS))])
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


def test_embeddings_read_a_transposed_matrix_too() -> None:
    unembedding = torch.tensor([[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]])  # [d_model d_vocab]
    tokens = WordTokens(("a", "b"), torch.tensor([0, 2, 1]), torch.tensor([2, 1]))
    assert word_embeddings(unembedding.T, tokens).tolist() == [[3.0, 4.0], [3.0, 4.0]]


def test_a_word_list_is_a_sequence_or_has_words() -> None:
    assert words_of(["a", "b"]) == ("a", "b")
    assert words_of(cast(Any, SimpleNamespace(words=("c",)))) == ("c",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("abc", "sequence of words, got str"),
        (SimpleNamespace(words=(1, 2)), "sequence of words, got SimpleNamespace"),
        ([], "word list is empty"),
    ],
)
def test_unusable_word_lists_are_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        words_of(given)


def test_a_list_of_which_nothing_is_known_is_refused() -> None:
    with pytest.raises(InputError, match=r"none of the 1 words maps to a token of tiny, for example 'xyz'"):
        word_tokens(view_with(unigram(["<unk>", "▁", "▁sea"])), ["xyz"])
