"""A base model and its tuned version, checked to be comparable."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from lensdiff.models.change import Kind, RealChange, SharedTokens
from lensdiff.models.controls import ControlView
from lensdiff.models.equality import EQUAL_WEIGHTS, Seen, equal_weights, equal_weights_notice, fingerprint
from lensdiff.models.facts import Facts
from lensdiff.models.identity import digest_of, distinct_ids
from lensdiff.models.loading import load_model
from lensdiff.models.sources import is_adapter
from lensdiff.models.view import Model, ModelView, forget, is_hooked, view_of
from lensdiff.models.wrappers import is_bridge
from lensdiff.results import Diff, InputError, Provenance

Keep = Literal["both", "one"]
MINIMUM_SHARED_TOKENS = 0.9  # of the smaller vocabulary; below that the tokenizers are different ones

_SHAPES = ("architecture", "n_layers", "n_heads", "n_key_value_heads", "d_model", "d_head", "d_mlp")


class ModelPair:
    """Base and tuned model; with `keep="one"` only the one in use is in memory.

    Attributes:
        base, tuned: the models, HookedTransformer or TransformerBridge.
    """

    def __init__(self, sources: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]], keep: Keep | str):
        if keep not in ("both", "one"):
            raise InputError(f"keep={keep!r} is none of both, one")
        self._sources, self._options, self._keep = sources, options, keep
        self._loaded: dict[str, Model] = {}
        self._facts: dict[str, Facts] = {}
        self._vocabularies: dict[str, dict[str, int] | None] = {}
        self._templates: dict[str, str | None] = {}
        self._notes: dict[str, tuple[str, ...]] = {}
        self._norms: dict[str, Tensor] = {}
        self._provenance: dict[str, Provenance] = {}
        self._names: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        self._seen: dict[str, Seen] = {}  # where one model is in memory at a time
        for side in ("base", "tuned"):
            if keep == "one" and not isinstance(sources[side], str | Path):
                raise InputError(
                    f'keep="one" loads a model again and again: {side} must be a name or a path, '
                    f"got {type(sources[side]).__name__}"
                )
        for side in ("tuned", "base"):  # an adapter copies a base in memory before a wrapper takes it over
            self._side(side)
        self._name_apart()
        self._check()

    @property
    def base(self) -> Model:
        return self._side("base")

    @property
    def tuned(self) -> Model:
        return self._side("tuned")

    @property
    def keep(self) -> str:
        return self._keep

    @property
    def ids(self) -> tuple[str, str]:
        """The names of base and tuned model, as results carry them; never the same (see `distinct_ids`)."""
        return self._provenance["base"].model, self._provenance["tuned"].model

    @property
    def digests(self) -> tuple[str, str]:
        """The digests of base and tuned model's tokenizers, as a `Response` carries them; "" where there is none."""
        return self._digests["base"], self._digests["tuned"]

    def _side(self, side: str) -> Model:
        if side not in self._loaded:
            if self._keep == "one":
                self._release()
            source = self._sources[side]
            self._loaded[side] = source if isinstance(source, ModelView) else load_model(source, **self._options[side])
            self._remember(side)
        return self._loaded[side]

    def _release(self) -> None:
        while self._loaded:
            forget(self._loaded.popitem()[1])
        gc.collect()  # a model is full of reference cycles

    def _name_apart(self) -> None:
        # only lensdiff's label of a model changes, also where it was wrapped elsewhere; one object that is both models
        # keeps the label it has
        sides = "base", "tuned"
        options = [self._options[side].get("revision") for side in sides]
        names = distinct_ids(self.ids, (self._sources["base"], self._sources["tuned"]), (options[0], options[1]))
        same = len(self._loaded) > 1 and view_of(self._loaded["base"]) is view_of(self._loaded["tuned"])
        for side, name in zip(sides, names, strict=True):
            self._provenance[side] = replace(self._provenance[side], model=name)
            if not same:
                self._names[side] = name
        for side, model in self._loaded.items():
            self._label(side, view_of(model))

    def _label(self, side: str, view: ModelView) -> None:
        if side in self._names and view.info.id != self._names[side]:
            view.info = replace(view.info, id=self._names[side])

    def _remember(self, side: str) -> None:
        view = view_of(self._loaded[side])
        self._label(side, view)
        if side in self._facts:  # loaded again
            return
        self._facts[side] = Facts.of(view)
        self._vocabularies[side] = None if view._tokenizer is None else dict(view.tokenizer.get_vocab())
        self._digests[side] = digest_of(view)
        if self._keep == "one":
            self._seen[side] = Seen.of(view, sample=True)
        self._templates[side] = view.info.chat_template
        self._notes[side] = view.info.notes
        self._provenance[side] = view.provenance("", {})
        places = [(name, layer) for layer in range(view.n_layers) for name in ("attn", "mlp")]
        gains = [view.gain(*place) for place in places if view.known(*place)]
        self._norms[side] = torch.cat([g.cpu().double() for g in gains if g is not None]) if gains else torch.zeros(0)

    def _check(self) -> None:
        base, tuned = self._facts["base"], self._facts["tuned"]
        for name in _SHAPES:
            if getattr(base, name) != getattr(tuned, name):
                raise InputError(
                    f"the models cannot be compared: {name} is {getattr(base, name)} in the base "
                    f"and {getattr(tuned, name)} in the tuned model"
                )
        mine, theirs = self._vocabularies["base"], self._vocabularies["tuned"]
        if mine is None or theirs is None:
            return
        share = len(mine.keys() & theirs.keys()) / min(len(mine), len(theirs))
        if share < MINIMUM_SHARED_TOKENS:
            raise InputError(
                f"the models cannot be compared: their tokenizers share {share:.0%} of the smaller vocabulary, "
                f"at least {MINIMUM_SHARED_TOKENS:.0%} is needed"
            )

    @cached_property
    def shared_tokens(self) -> SharedTokens:
        """Ids, in the base and in the tuned model, of the token strings that both vocabularies and embeddings have."""
        mine, theirs = self._vocabularies["base"], self._vocabularies["tuned"]
        if mine is None or theirs is None:
            ids = torch.arange(min(self._facts["base"].d_vocab, self._facts["tuned"].d_vocab))
            return ids, ids
        sizes = self._facts["base"].d_vocab, self._facts["tuned"].d_vocab
        shared = sorted(
            (i, theirs[t]) for t, i in mine.items() if t in theirs and i < sizes[0] and theirs[t] < sizes[1]
        )
        base, tuned = zip(*shared, strict=True)
        return torch.tensor(base), torch.tensor(tuned)

    def provenance(self, analysis: str, options: dict[str, Any], seed: int | None = None) -> Provenance:
        """Return where a result of both models comes from: the tuned model's, with the base in its name and options."""
        found = self._provenance["tuned"]
        model = " -> ".join(self.ids)
        return replace(found, analysis=analysis, model=model, options=options | {"base": self.ids[0]}, seed=seed)

    def control(self, kind: Kind | str = "spectrum", seed: int = 0) -> ControlView:
        """Return a model made from the base by a meaningless change of the size of the real one, weight by weight.

        Args:
            kind: "spectrum" (base + U' S V'^T with the real change's singular values S and random orthonormal U', V'),
                "norm" (base + Gaussian noise of the real change's Frobenius norm) or "self" (the base: no change).
            seed: of U' and V', or of the noise; a weight depends on the kind, the seed, its name and its layer alone.

        Matrices are the checkpoint's: all heads of W_Q as one, keys and values with their key-value heads. Embeddings
        are matrices too: tied ones stay tied, and where the vocabularies differ only shared tokens' rows change. Norm
        gains and biases move by their real distance in a random direction. What the tuned model left alone stays
        exactly as it is. Weights are computed when they are read; a forward pass makes a whole model (`free` lets go
        of it).

        Raises:
            InputError: `kind` is none of the three, the pair keeps one model, or one model is folded and the other not.
        """
        return ControlView(self.change(), kind, seed)

    def change(self) -> RealChange:
        """Return the change of the weights from base to tuned, with their singular values once they are computed.

        Raises:
            InputError: the pair keeps one model, or one model is folded and the other is not.
        """
        if self._keep == "one":
            raise InputError('comparing weights takes both models at once: load the pair with keep="both"')
        self.check_weights()
        return self._change

    def check_weights(self) -> None:
        """Refuse to compare the weights of a folded model with those of another.

        Raises:
            InputError: the two are not in the same view ("raw", "folded", "as given").
        """
        base, tuned = self._facts["base"].weights, self._facts["tuned"].weights
        if "folded" in (base, tuned) and base != tuned:
            raise InputError(
                f"weights cannot be compared: those of the base are {base}, those of the tuned model {tuned}"
            )

    @cached_property
    def _change(self) -> RealChange:
        return RealChange(view_of(self.base), view_of(self.tuned), self.shared_tokens)

    @cached_property
    def equal(self) -> bool:
        """Whether all weights of the two models are equal (in one dtype and one wrapper)."""
        if self._keep == "both":
            return equal_weights(view_of(self.base), view_of(self.tuned))
        if self._seen["base"].sample != self._seen["tuned"].sample:
            return False
        return fingerprint(view_of(self.base), whole=True) == fingerprint(view_of(self.tuned), whole=True)

    @property
    def notice(self) -> str:
        """What stands on the first line of every output: that the weights are equal, where they are, else ""."""
        if not self.equal:
            return ""
        seen = self._seen or {side: Seen.of(view_of(self._side(side)), sample=False) for side in ("base", "tuned")}
        return equal_weights_notice(seen["base"], seen["tuned"])

    def differences(self) -> pd.DataFrame:
        """Return what differs between the models beside their weights, one row each: what, base, tuned, meaning.

        Where all weights are equal, the first row says so.
        """
        base, tuned = asdict(self._facts["base"]), asdict(self._facts["tuned"])
        meaning = {
            "d_vocab": "compared on the token strings that both have",
            "bos": "prompts are tokenised differently",
            "dtype": "differences below the coarser precision mean nothing",
            "eos": "responses end differently",
            "weights": "one is folded: weight analyses are not comparable",
        }
        rows = [(EQUAL_WEIGHTS, "all", "all", self.notice)] if self.equal else []
        rows += [(name, base[name], tuned[name], text) for name, text in meaning.items() if base[name] != tuned[name]]
        if self._templates["base"] != self._templates["tuned"]:
            rows.append(
                ("chat_template", base["chat_template"], tuned["chat_template"], "not applied: raw prompts are used")
            )
        mine, theirs = self._vocabularies["base"], self._vocabularies["tuned"]
        if mine is not None and theirs is not None and mine != theirs:
            added, lost = len(theirs.keys() - mine.keys()), len(mine.keys() - theirs.keys())
            rows.append(
                (
                    "tokenizer",
                    f"{lost} tokens of its own",
                    f"{added} tokens of its own",
                    "compared on the token strings that both have",
                )
            )
        norms = self._norms
        if (
            norms["base"].shape == norms["tuned"].shape
            and len(norms["base"])
            and not torch.equal(norms["base"], norms["tuned"])
        ):
            change = float((norms["tuned"] - norms["base"]).norm() / norms["base"].norm())
            rows.append(
                (
                    "norm gains",
                    "",
                    f"changed by {change:.2e} of their norm",
                    "weights are compared raw and with gains folded",
                )
            )
        rows += [("note", note, "", "said on loading") for note in self._notes["base"]]
        rows += [("note", "", note, "said on loading") for note in self._notes["tuned"]]
        return pd.DataFrame(rows, columns=["what", "base", "tuned", "meaning"])

    def compare(self, analysis: Callable[..., Any], *arguments: Any, **options: Any) -> Diff:
        """Run an analysis of one model on both, with the same arguments: `analysis(model, *arguments, **options)`."""
        base = analysis(self.base, *arguments, **options)
        return Diff(base, analysis(self.tuned, *arguments, **options))


def load_pair(
    base: Any,
    tuned: Any,
    *,
    keep: Keep | str = "both",
    base_options: Mapping[str, Any] | None = None,
    tuned_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> ModelPair:
    """Load a base model and its tuned version; `options` go to `load_model` for both, the two mappings to one of them.

    A folder with a LoRA adapter as `tuned` is put on `base`, whatever model it names itself: the change is then the
    adapter's alone. `tuned_options={"base": ...}` puts it on another model; where `base` is wrapped already, it goes on
    the one it names.

    Raises:
        InputError: a load fails, or the models cannot be compared (another architecture, shape or tokenizer), with the
            reason.
    """
    sides = {"base": dict(options) | dict(base_options or {}), "tuned": dict(options) | dict(tuned_options or {})}
    if is_adapter(tuned) and not (isinstance(base, ModelView) or is_hooked(base) or is_bridge(base)):
        inherited = {"base": base, "revision": sides["base"].get("revision")}
        sides["tuned"] = inherited | sides["tuned"]
    return ModelPair({"base": base, "tuned": tuned}, sides, keep)
