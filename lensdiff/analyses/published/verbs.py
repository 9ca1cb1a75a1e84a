"""Table 3 of the paper from the word pairs that its authors released: `verb_shift` without a model.

Only pairs that name a listed verb are kept (nothing else is counted), so the whole release, one line per dimension of
every head of both models, passes through memory of a few hundred megabytes at most. The release holds no controls:
what a meaningless change of the weights would do cannot be told from it.

Reference: Wu et al., NAACL 2024, section 5; doi 10.18653/v1/2024.naacl-long.130.
"""

from collections.abc import Iterable, Sequence

import torch

from lensdiff.analyses.heads.defaults import LAYERS_PER_GROUP
from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs
from lensdiff.analyses.heads.verb_shift import VerbShift, verb_shift
from lensdiff.inputs.published import FOLDERS, Published
from lensdiff.inputs.tables import ReleasedWords
from lensdiff.inputs.verbs import INSTRUCTION_VERBS, general_verbs
from lensdiff.results import InputError, Provenance

NAMES = {side: folder.split("_")[1] for side, folder in FOLDERS.items()}  # llama, vicuna
Place = tuple[int, int, int]  # layer, head, dimension
Dims = dict[Place, tuple[tuple[str, str], ...]]


def published_verb_shift(
    published: Published, *, verbs: Sequence[str] = INSTRUCTION_VERBS, layers_per_group: int = LAYERS_PER_GROUP
) -> VerbShift:
    """Return in how many heads each verb's count rose from LLaMA-7B to Vicuna-7B, by the released word pairs.

    Raises:
        InputError: the clone holds no word pairs of one of the two models, or an option is unusable.
    """
    control_verbs = [verb for verb in general_verbs() if verb not in verbs]
    found = _pairs_with(published.word_pairs(), {*verbs, *control_verbs})
    for side, name in NAMES.items():
        if not found[side]:
            raise InputError(
                f"{published.path} holds no word pairs of {name}, expected results/bilinear_interpret/ with them"
            )
    words = tuple(
        sorted({word for dims in found.values() for pairs in dims.values() for pair in pairs for word in pair})
    )
    places = {place for dims in found.values() for place in dims}
    base, tuned = (_as_result(NAMES[side], found[side], words, places) for side in NAMES)
    return verb_shift(base, tuned, verbs=verbs, control_verbs=control_verbs, layers_per_group=layers_per_group)


def _pairs_with(lines: Iterable[ReleasedWords], verbs: set[str]) -> dict[str, Dims]:
    """Return the lower-case pairs that name one of the verbs, by side and place; of two lines the later counts."""
    found: dict[str, Dims] = {side: {} for side in NAMES}
    for line in lines:
        side = next((side for side, name in NAMES.items() if name in line.model.lower()), None)
        if side is None or line.dim is None:
            continue
        lower = ((key.lower(), query.lower()) for key, query in line.pairs())
        named = tuple(pair for pair in lower if not verbs.isdisjoint(pair))
        found[side][line.layer, line.head_index, line.dim] = named
    return found


def _as_result(name: str, dims: Dims, words: tuple[str, ...], places: set[Place]) -> HeadWordPairs:
    layers, heads, numbers = (tuple(sorted({place[i] for place in places})) for i in range(3))
    index = {word: i for i, word in enumerate(words)}
    rows = [dims.get((layer, head, dim), ()) for layer in layers for head in heads for dim in numbers]
    counts = torch.tensor([len(row) for row in rows])
    key, query = (torch.tensor([index[pair[i]] for row in rows for pair in row], dtype=torch.int32) for i in (0, 1))
    shape = len(layers), len(heads), len(numbers)
    return HeadWordPairs(
        Provenance("head_word_pairs", name, weights="released word pairs"),
        layers,
        heads,
        words,
        torch.tensor(numbers, dtype=torch.int32).expand(shape).contiguous(),
        torch.zeros(shape),
        torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        key,
        query,
        torch.zeros(len(key)),
    )
