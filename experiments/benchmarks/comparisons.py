"""What `table.py` compares: each analysis on a model, with the rivals that give the same numbers.

`GROUPS` has them by name; a group makes its comparisons one at a time, and loads what it needs. The first call of each
kind is made here, before any round: what a model is made of is measured then, once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import lensdiff
from experiments.benchmarks import attribution, concepts, heads, neighbours, patching
from experiments.benchmarks.compared import Comparison, Way, here
from experiments.benchmarks.inseq_rival import Inseq
from lensdiff.analyses.attribute.defaults import DELETION_DRAWS
from lensdiff.analyses.mlp.components import concept_directions
from lensdiff.analyses.mlp.defaults import RANKS
from lensdiff.analyses.residual_stream.lens import TOP_K
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.inputs.word_vectors import WordVectors
from lensdiff.models import ModelPair, ModelView, load_model, view_of
from lensdiff.models.aligned_text import align_text
from lensdiff.models.response import Response

AGAINST = " the"  # the token that logits are held against


@dataclass(frozen=True)
class Sizes:
    """What is measured on: tokens of prompt and response, words, layers, components, rows of the loop that are run."""

    attributed: tuple[tuple[int, int], ...] = ((20, 34), (4, 48), (29, 100))
    read: tuple[int, int] = (29, 100)
    patched: tuple[int, int] = (20, 30)
    sampled: int = 24
    generated: int = 48
    prompts: int = 8
    words: int | None = None
    layers: int | None = None
    components: int = 300
    top_k: int = 100
    top_words: int = 50


class Subject:
    """The model in the forms that the comparisons need, each loaded when it is first asked for."""

    def __init__(self, name: str, sizes: Sizes, inseq: Inseq | None = None):
        self.name, self.sizes, self.inseq = name, sizes, inseq

    @cached_property
    def model(self) -> Any:
        return load_model(self.name, device="cpu", wrapper="hooked")

    @property
    def view(self) -> ModelView:
        return view_of(self.model)

    @cached_property
    def source(self) -> PreTrainedModel:
        """The same by transformers, with explicit attention and without gradients of weights."""
        return AutoModelForCausalLM.from_pretrained(
            self.name, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
        ).requires_grad_(False)

    @cached_property
    def pair(self) -> ModelPair:
        """The model and one with noise on its weights."""
        return patching.noisy_pair(self.name)

    @cached_property
    def folded(self) -> Any:
        """The model with the norms' gains in the matrices behind them, as TransformerLens's attribution needs it."""
        return load_model(self.name, device="cpu", wrapper="hooked", weights="folded", verify=False)

    @property
    def layers(self) -> range:
        return range(self.sizes.layers or self.view.n_layers)

    @property
    def words(self) -> tuple[str, ...]:
        return Vocabulary.default().words[: self.sizes.words]

    def text(self, n: int, m: int) -> tuple[str, Response, torch.Tensor]:
        """Return a prompt, a response, and the ids of both."""
        prompt = attribution.prompt_of(self.view, n)
        text, said = attribution.said_of(self.view, prompt, m)
        return (
            prompt,
            Response(text, tuple(said.tolist())),
            torch.tensor([*attribution.ids_of(self.view, prompt), *said]),
        )


def named(n: int, m: int) -> str:
    return f"{n} + {m} tokens"


def relative(mine: Any, theirs: Any) -> float:
    return float((mine - theirs).abs().max() / mine.abs().max())


def attributed(subject: Subject) -> Iterator[Comparison]:
    view, source = subject.view, subject.source
    prompt, said, _ = subject.text(4, 2)
    attribution.asked(view, prompt, torch.tensor(said.token_ids), DELETION_DRAWS)
    for n, m in subject.sizes.attributed:
        prompt, said, ids = subject.text(n, m)
        own = torch.tensor(said.token_ids)

        def asked(draws: int, prompt: str = prompt, own: torch.Tensor = own) -> Way:
            return here(lambda: attribution.asked(view, prompt, own, draws))

        rivals = {
            "captum": here(lambda ids=ids, n=n: attribution.captum(source, ids, n)),
            "a loop of backward passes": here(lambda ids=ids, n=n: attribution.plain_loop(source, ids, n)),
        }
        if subject.inseq is not None:
            rivals["inseq"] = subject.inseq.way(prompt, prompt + said.text, ids.tolist())
        ours = {attribution.CHECKED: asked(DELETION_DRAWS), attribution.UNCHECKED: asked(0)}
        case, bound = named(n, m), attribution.AGREEMENT
        yield Comparison("attribute", case, ours, rivals, relative, bound, "of the largest score")


def swept(subject: Subject) -> Iterator[Comparison]:
    pair, (n, m) = subject.pair, subject.sizes.patched
    given = patching.text_of(pair, n, m)
    lensdiff.patch_sweep(pair, *given, layers=[0], into="base")
    text = align_text(pair, *given, max_new_tokens=1, prepend_bos=None)
    ids, said = text.ids["base"], text.said["base"]

    def heads_of_both() -> torch.Tensor:
        found = lensdiff.patch_sweep(pair, *given, components=["head"], into="base")
        return found.effect[0].reshape(subject.view.n_layers, -1)

    def theirs() -> torch.Tensor:
        return neighbours.patched_heads(pair.base, pair.tuned, ids, text.first, said)

    def gap(mine: torch.Tensor, other: torch.Tensor) -> float:
        return float((mine - other).abs().max())

    def sampled_gap(mine: torch.Tensor, other: torch.Tensor) -> float:
        return gap(mine[timed := ~other.isnan()], other[timed])

    unit, rivals = "nats per token", {"TransformerLens": here(theirs)}
    case = f"all heads, {named(n, m)}"
    ours = {"patch_sweep": here(heads_of_both)}
    yield Comparison("patch_sweep", case, ours, rivals, gap, patching.AGREEMENT, unit)
    yield Comparison(
        "patch_sweep",
        f"all heads and MLPs, {named(n, m)}",
        {"patch_sweep": here(lambda: lensdiff.patch_sweep(pair, *given, into="base").effect[0])},
        {"a loop of whole passes": patching.sampled_loop(pair, text, subject.sizes.sampled)},
        sampled_gap,
        patching.AGREEMENT,
        unit,
    )


def read(subject: Subject) -> Iterator[Comparison]:
    model, (n, m) = subject.model, subject.sizes.read
    prompt, said, ids = subject.text(n, m)
    case, own, first = named(n, m), torch.tensor(said.token_ids), n - 1
    given: Any = {"prepend_bos": False}

    def patterns() -> tuple[torch.Tensor, ...]:
        found = lensdiff.attention(model, prompt, said, **given)
        return found.patterns, found.sink_share, found.entropy

    def patterns_gap(mine: Any, theirs: Any) -> float:
        return max(relative(a.double(), b.double()) for a, b in zip(mine, theirs, strict=True))

    def lens() -> tuple[torch.Tensor, ...]:
        found = lensdiff.logit_lens(model, prompt, said, **given)
        return found.kl, found.rank, found.prob, torch.as_tensor(found.word_ids)[found.likely]

    def lens_gap(mine: Any, theirs: Any) -> float:
        for name, i in (("ranks", 1), ("likeliest tokens", 3)):
            other = float((mine[i] != theirs[i]).double().mean())
            assert other < 1e-3, f"{other:.1%} of all {name} differ"  # of nearly equal logits either may be first
        return float(torch.stack([(mine[i] - theirs[i]).abs().max() for i in (0, 2)]).max())

    def parts() -> torch.Tensor:
        found = lensdiff.direct_logit_attribution(subject.folded, prompt, said, against=AGAINST, **given)
        some = [i for kind in ("head", "mlp") for i, part in enumerate(found.parts) if part[0] == kind]
        return found.contributions[some]

    def their_parts() -> torch.Tensor:
        (rival,) = attribution.ids_of(subject.view, AGAINST)
        return neighbours.direct_logit_attribution(subject.folded, ids[:-1], first, own, rival)

    rivals: list[tuple[str, Callable[[], Any], Callable[[], Any], Callable[[Any, Any], float], float, str]] = [
        ("attention", patterns, lambda: neighbours.attention(model, ids), patterns_gap, 1e-4, "of the largest"),
        (
            "logit_lens",
            lens,
            lambda: neighbours.logit_lens(model, ids[:-1], first, own, TOP_K),
            lens_gap,
            1e-4,
            "nats",
        ),
        ("direct_logit_attribution", parts, their_parts, relative, 1e-4, "of the largest"),
    ]
    for name, ours, theirs, gap, bound, unit in rivals:
        ours()
        yield Comparison(name, case, {name: here(ours)}, {"TransformerLens": here(theirs)}, gap, bound, unit)


def generated(subject: Subject) -> Iterator[Comparison]:
    model, view, new, n = subject.model, subject.view, subject.sizes.generated, 20
    start = attribution.prompt_of(view, 1)
    texts = [start + attribution.said_of(view, start, n - 1, seed)[0] for seed in range(subject.sizes.prompts)]
    every = [attribution.ids_of(view, text) for text in texts]
    lensdiff.generate(model, texts[0], max_new_tokens=1, prepend_bos=False)

    def ours(some: list[str]) -> list[list[int]]:
        found = lensdiff.generate(model, some, max_new_tokens=new, prepend_bos=False, progress=False)
        return [list(one.token_ids) for one in found]

    def other(mine: list[list[int]], theirs: list[list[int]]) -> float:
        return float(sum(a != b for a, b in zip(mine, theirs, strict=True)))

    for count in (1, len(every)):
        some, tokens = texts[:count], torch.tensor(every[:count])
        yield Comparison(
            "generate",
            f"{count} x {n} tokens, {new} more",
            {"generate": here(lambda some=some: ours(some))},
            {"TransformerLens": here(lambda tokens=tokens: neighbours.generate(model, tokens, new))},
            other,
            1,
            "texts",
        )


def worded(subject: Subject) -> Iterator[Comparison]:
    view, sizes, words, layers = subject.view, subject.sizes, subject.words, subject.layers
    vectors = WordVectors.from_model(view, words)
    lensdiff.head_word_pairs(view, words[:99], WordVectors.from_model(view, words[:99]), layers=[0])
    case = f"{len(words)} words, {len(layers)} layers"

    def pairs() -> Any:  # a copy: of the vectors that were compared last, thresholds are kept
        return lensdiff.head_word_pairs(view, words, replace(vectors), layers=layers, top_k=sizes.top_k)

    yield Comparison(
        "head_word_pairs",
        case,
        {"head_word_pairs": here(pairs)},
        {"a loop over dimensions": here(lambda: heads.plain_loop(view, words, vectors, layers, sizes.top_k))},
        heads.gap,
        1e-4,
        "of all pairs",
    )
    some: dict[str, Any] = {"layers": layers, "n_components": sizes.components}
    used = concept_directions(view, layers=[0], n_components=sizes.components).components.shape[2]
    yield Comparison(
        "mlp_concepts",
        case,
        {"mlp_concepts": here(lambda: lensdiff.mlp_concepts(view, words, top_words=sizes.top_words, **some))},
        {"a loop over components": here(lambda: concepts.plain_loop(view, words, layers, used, sizes.top_words))},
        concepts.gap,
        1e-2,
        "of all words",
    )
    base, tuned = (concept_directions(view_of(one), **some) for one in (subject.pair.base, subject.pair.tuned))
    ranks = tuple(rank for rank in RANKS if rank <= used and 2 * rank <= view.d_model)
    yield Comparison(
        "rotation",
        f"{used} components, {len(layers)} layers",
        {"rotation": here(lambda: lensdiff.rotation(base, tuned))},
        {"scipy, layer by layer": here(lambda: concepts.plain_rotation(base, tuned, ranks))},
        concepts.rotation_gap,
        1e-4,  # the loop's arccosine of float32 components
        "radians",
    )


GROUPS: dict[str, Callable[[Subject], Iterator[Comparison]]] = {
    "attribute": attributed,
    "patch": swept,
    "read": read,
    "generate": generated,
    "words": worded,
}
