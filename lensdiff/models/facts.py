"""What a pair remembers of each of its models, so that it can compare them with one in memory."""

from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.models.equality import Seen
from lensdiff.models.identity import digest_of
from lensdiff.models.inside.parts import GainName
from lensdiff.models.inside.precision import as_double
from lensdiff.models.inside.storage import covers
from lensdiff.models.others import is_split
from lensdiff.models.view import ModelView
from lensdiff.results import InputError, Provenance
from lensdiff.results.numbers import n_of


@dataclass(frozen=True)
class Facts:
    """What one model says of itself, as far as a comparison needs it."""

    architecture: str
    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    dtype: str
    bos: str
    eos: str
    chat_template: str
    weights: str
    wrapper: str
    final_gain: float

    @classmethod
    def of(cls, view: ModelView) -> "Facts":
        gain = view.weights.gain("final") if view.weights.has_gain("final") else None
        return cls(
            architecture=view.info.architecture,
            n_layers=view.n_layers,
            n_heads=view.n_heads,
            n_key_value_heads=view.n_key_value_heads,
            d_model=view.d_model,
            d_head=view.d_head,
            d_mlp=view.d_mlp,
            d_vocab=view.d_vocab,
            dtype=str(view.dtype).removeprefix("torch."),
            bos=_bos_habit(view),
            eos=", ".join(map(str, view.info.eos_token_ids)) or "none",
            chat_template="none" if not view.info.chat_template else f"{len(view.info.chat_template)} characters",
            weights=view.info.weights,
            wrapper=view.info.wrapper,
            final_gain=float("nan") if gain is None else float(as_double(gain).mean()),
        )


def n_parameters(view: ModelView) -> int:
    """Return how many parameters a model has, each once: an unembedding that is the embedding adds none.

    A HookedTransformer has biases where the checkpoint has none: zeros, which are not counted.
    """
    if view.streamed is not None:
        return view.streamed.n_parameters
    found, seen, named = 0, [], dict(view.model.named_parameters())
    # whole tensors first: a part of one that has been seen, or the same again, is not counted
    for name, parameter in sorted(named.items(), key=lambda item: item[1].numel(), reverse=True):
        known = is_split(name, named) or any(covers(other, parameter) for other in seen)
        if not known and bool(parameter.any()):
            seen.append(parameter.detach())
            found += parameter.numel()
    W_E, W_U = view.weights.W_E, view.weights.W_U
    copied = not covers(W_E, W_U) and W_E.shape == W_U.T.shape and torch.equal(W_E, W_U.T)  # with a storage of its own
    return found - (W_U.numel() if copied else 0)


def _bos_habit(view: ModelView) -> str:
    if view._tokenizer is None:
        return "no tokenizer"
    ids = view.tokenizer.encode("a", add_special_tokens=True)
    return "prepended" if view.tokenizer.bos_token_id in ids[:1] else "none"


MINIMUM_SHARED_TOKENS = 0.9  # of the smaller vocabulary; below that the tokenizers are different ones
_SHAPES = ("architecture", "n_layers", "n_heads", "n_key_value_heads", "d_model", "d_head", "d_mlp")
_MEANING = {
    "d_vocab": "compared on the token strings that both have",
    "bos": "prompts are tokenised differently",
    "dtype": "differences below the coarser precision mean nothing",
    "eos": "responses end differently",
    "weights": "one is folded: weight analyses are not comparable",
    "wrapper": "passes are rounded differently, and no control can be run",
}


@dataclass(frozen=True, eq=False)
class Known:
    """What a pair keeps of a model that was in memory once.

    Attributes:
        vocabulary: token strings to ids, None without a tokenizer.
        gains: those of all layers' attention and MLP, side by side.
        seen: what decides whether two models are the same one.
    """

    facts: Facts
    vocabulary: dict[str, int] | None
    chat_template: str | None
    notes: tuple[str, ...]
    gains: Float[Tensor, " gain"]
    provenance: Provenance
    digest: str
    seen: Seen

    @classmethod
    def of(cls, view: ModelView, *, sample: bool) -> "Known":
        weights, info = view.weights, view.info
        places: list[tuple[GainName, int]] = [(n, layer) for layer in range(view.n_layers) for n in ("attn", "mlp")]
        found = [weights.gain(*place) for place in places if weights.has_gain(*place)]
        gains = [gain.cpu().double() for gain in found if gain is not None]
        return cls(
            Facts.of(view),
            None if view._tokenizer is None else dict(view.tokenizer.get_vocab()),
            info.chat_template,
            info.notes,
            torch.cat(gains) if gains else torch.zeros(0),
            view.provenance("", {}),
            digest_of(view),
            Seen.of(view, sample=sample),
        )


def check_comparable(base: Known, tuned: Known) -> None:
    """Refuse two models that cannot be compared.

    Raises:
        InputError: they have another architecture, another shape, or tokenizers that share too little.
    """
    for name in _SHAPES:
        mine, theirs = getattr(base.facts, name), getattr(tuned.facts, name)
        if mine != theirs:
            raise InputError(
                f"the models cannot be compared: {name} is {mine} in the base and {theirs} in the tuned model"
            )
    if base.vocabulary is None or tuned.vocabulary is None:
        return
    share = len(base.vocabulary.keys() & tuned.vocabulary.keys()) / min(len(base.vocabulary), len(tuned.vocabulary))
    if share < MINIMUM_SHARED_TOKENS:
        raise InputError(
            f"the models cannot be compared: their tokenizers share {share:.0%} of the smaller vocabulary, "
            f"at least {MINIMUM_SHARED_TOKENS:.0%} is needed"
        )


def differences(base: Known, tuned: Known) -> list[tuple[str, object, object, str]]:
    """Return what differs beside the weights, a row each: what, base, tuned, meaning."""
    mine, theirs = asdict(base.facts), asdict(tuned.facts)
    rows = [(name, mine[name], theirs[name], text) for name, text in _MEANING.items() if mine[name] != theirs[name]]
    if base.chat_template != tuned.chat_template:
        unused = "the tuned model's, for both, where prompts are rendered; raw prompts have none"
        rows.append(("chat_template", mine["chat_template"], theirs["chat_template"], unused))
    if base.vocabulary is not None and tuned.vocabulary is not None and base.vocabulary != tuned.vocabulary:
        lost, added = base.vocabulary.keys() - tuned.vocabulary.keys(), tuned.vocabulary.keys() - base.vocabulary.keys()
        mine, theirs = (n_of(len(tokens), "token") + " of its own" for tokens in (lost, added))
        rows.append(("tokenizer", mine, theirs, "compared on the token strings that both have"))
    a, b = base.gains, tuned.gains
    if a.shape == b.shape and len(a) and not torch.equal(a, b):
        change = f"changed by {float((b - a).norm() / a.norm()):.2e} of their norm"
        rows.append(("norm gains", "", change, "weights are compared raw and with gains folded"))
    rows += [("note", note, "", "said on loading") for note in base.notes]
    return rows + [("note", "", note, "said on loading") for note in tuned.notes]
