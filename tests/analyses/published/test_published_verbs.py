"""Table 3 from released word pairs is `verb_shift` of the same pairs."""

from pathlib import Path

import numpy as np
import pytest

from lensdiff.analyses.heads.verb_shift import verb_shift
from lensdiff.analyses.published.verbs import published_verb_shift
from lensdiff.inputs import load_published
from lensdiff.inputs.verbs import INSTRUCTION_VERBS, general_verbs
from lensdiff.results import InputError
from tests.analyses.heads.head_models import Named, made
from tests.inputs.released import write_clone

N_LAYERS, N_HEADS, N_DIMS = 3, 4, 3
VERBS = (*INSTRUCTION_VERBS[:3], *general_verbs()[:5])
WORDS = (*VERBS, *(f"thing{i}" for i in range(6)), VERBS[0].capitalize())


def drawn(seed: int) -> list[list[list[Named]]]:
    """Pairs of random words, of which some name verbs, in every dimension."""
    rng = np.random.default_rng(seed)

    def pairs() -> Named:
        return [tuple(WORDS[i] for i in rng.choice(len(WORDS), 2, replace=False)) for _ in range(rng.integers(0, 30))]

    return [[[pairs() for _ in range(N_DIMS)] for _ in range(N_HEADS)] for _ in range(N_LAYERS)]


def write_pairs(root: Path, models: dict[str, list[list[list[Named]]]]) -> Path:
    lines = ["Model\tSize\tLayer\tType\tHead\tDim\tRank\tScore\tTopK"]
    for model, layers in models.items():
        for i, heads in enumerate(layers):
            for j, dims in enumerate(heads):
                for d, pairs in enumerate(dims):
                    text = "|||".join(f"{key}={query}" for key, query in pairs)
                    lines.append(f"{model}\t7B\t{i}\tqk\t{j}\t{d}\t{d + 1}\t0.5\t{text}")
    folder = root / "results" / "bilinear_interpret"
    folder.mkdir(parents=True)
    (folder / "bilinear_words.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.mark.parametrize("layers_per_group", [2, 8])
def test_released_pairs_give_the_shift_of_the_same_pairs(tmp_path, layers_per_group: int) -> None:
    base, tuned = drawn(0), drawn(1)
    root = write_pairs(write_clone(tmp_path / "clone", {"lima_author_1": 4}), {"llama": base, "vicuna_7b": tuned})
    found = published_verb_shift(load_published(root), layers_per_group=layers_per_group)
    expected = verb_shift(made(base, WORDS), made(tuned, WORDS), layers_per_group=layers_per_group)
    assert found.to_df().equals(expected.to_df())
    assert found.base_count.sum() > 0
    assert found.summary()[["group", "mean", "n", "coverage"]].equals(
        expected.summary()[["group", "mean", "n", "coverage"]]
    )
    assert found.provenance.model == "vicuna"


def test_the_verbs_are_an_option(tmp_path) -> None:
    root = write_pairs(write_clone(tmp_path / "clone", {"lima_author_1": 4}), {"llama": drawn(0), "vicuna": drawn(1)})
    found = published_verb_shift(load_published(root), verbs=(general_verbs()[0],))
    assert found.verbs[: found.n_instruction] == (general_verbs()[0],)
    assert found.verbs.count(general_verbs()[0]) == 1


def test_a_clone_without_the_pairs_of_both_models_is_refused(tmp_path) -> None:
    root = write_clone(tmp_path / "clone", {"lima_author_1": 4})
    with pytest.raises(InputError, match="holds no word pairs of llama, expected results/bilinear_interpret/"):
        published_verb_shift(load_published(root))
    write_pairs(root, {"llama": drawn(0), "alpaca": drawn(1)})
    with pytest.raises(InputError, match="holds no word pairs of vicuna"):
        published_verb_shift(load_published(root))
