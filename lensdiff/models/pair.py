"""A base model and its tuned version, checked to be comparable."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import pandas as pd
import torch

from lensdiff.defaults import RAW
from lensdiff.models.change import RealChange, SharedTokens
from lensdiff.models.controlling.options import Kind
from lensdiff.models.controlling.workshop import Workshop
from lensdiff.models.controls import control_view
from lensdiff.models.equality import EQUAL_WEIGHTS, equal_weights, equal_weights_notice, fingerprint
from lensdiff.models.facts import Known, check_comparable, differences
from lensdiff.models.identity import distinct_ids
from lensdiff.models.inside.parts import sizes_of
from lensdiff.models.inside.wrappers import Model, is_bridge, is_hooked
from lensdiff.models.loading.load import load_model
from lensdiff.models.loading.sources import is_adapter
from lensdiff.models.templates import template_of
from lensdiff.models.view import ModelView, forget, view_of
from lensdiff.results import Diff, InputError, Provenance
from lensdiff.results.diff import SIDES
from lensdiff.results.printed import printed, shortened

Keep = Literal["both", "one"]
NAME = 40  # characters of what is no loaded model yet
P = ParamSpec("P")
R = TypeVar("R")


class ModelPair:
    """Base and tuned model, loaded when first asked for; with `keep="one"` only the one in use is in memory.

    Attributes:
        base, tuned: the models, HookedTransformer or TransformerBridge.
    """

    def __init__(self, sources: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]], keep: Keep | str):
        """Keep what is to be loaded; `load_pair` makes a pair and checks it.

        Args:
            sources: by the side, "base" and "tuned", what `load_model` takes.
            options: by the side, of `load_model`.
            keep: "both" or "one".

        Raises:
            InputError: `keep` is neither, or "one" where a source is no name or path.
        """
        if keep not in ("both", "one"):
            raise InputError(f"keep={keep!r} is none of both, one")
        self._sources, self._options, self._keep = sources, options, keep
        self._loaded: dict[str, Model] = {}
        self._remembered: dict[str, Known] = {}  # of each model that was in memory once
        self._names: dict[str, str] = {}
        for side in SIDES:
            if keep == "one" and not isinstance(sources[side], str | Path):
                raise InputError(
                    f'keep="one" loads a model again and again: {side} must be a name or a path, '
                    f"got {type(sources[side]).__name__}"
                )

    def __repr__(self) -> str:
        """Return which models, their sizes, in what they differ beside their weights, and what to call next.

        Nothing is loaded for it.
        """
        calls = ("compare(analysis, ...)", "control()", "differences()")
        if "_known" not in vars(self):
            names = " -> ".join(shortened(str(self._sources[side]), NAME) for side in SIDES)
            return printed(f"ModelPair {names}", ["  not loaded yet"], calls=("check()", *calls))
        facts, rows = self._known["tuned"].facts, differences(self._known["base"], self._known["tuned"])
        lines = [f"  {facts.architecture}, {sizes_of(facts)}, {facts.dtype}, kept: {self._keep}"]
        lines.append(
            f"  differ beside their weights in: {', '.join(dict.fromkeys(row[0] for row in rows)) or 'nothing'}"
        )
        notice = self.notice if "equal" in vars(self) else ""
        return printed(f"ModelPair {' -> '.join(self.ids)}", lines, calls=calls, notice=notice)

    def check(self) -> None:
        """Load both models and refuse those that cannot be compared; anything else that is asked does so first.

        Raises:
            InputError: a load fails, or the models have another architecture, shape or tokenizer, with the reason.
        """
        _ = self._known

    @cached_property
    def _known(self) -> dict[str, Known]:
        for side in reversed(SIDES):  # an adapter copies a base in memory before a wrapper takes it over
            self._side(side)
        self._name_apart()
        check_comparable(self._remembered["base"], self._remembered["tuned"])
        return self._remembered

    @property
    def base(self) -> Model:
        """The base model, loaded where it is not in memory."""
        self.check()
        return self._side("base")

    @property
    def tuned(self) -> Model:
        """The tuned model, loaded where it is not in memory."""
        self.check()
        return self._side("tuned")

    @property
    def keep(self) -> str:
        """Which models are in memory: "both", or "one" at a time."""
        return self._keep

    @property
    def ids(self) -> tuple[str, str]:
        """The names of base and tuned model, as results carry them; never the same (see `distinct_ids`)."""
        return self._known["base"].provenance.model, self._known["tuned"].provenance.model

    @property
    def digests(self) -> tuple[str, str]:
        """The digests of base and tuned model's tokenizers, as a `Response` carries them; "" where there is none."""
        return self._known["base"].digest, self._known["tuned"].digest

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
        found = self._remembered
        options = [self._options[side].get("revision") for side in SIDES]
        ids = found["base"].provenance.model, found["tuned"].provenance.model
        names = distinct_ids(ids, (self._sources["base"], self._sources["tuned"]), (options[0], options[1]))
        same = len(self._loaded) > 1 and view_of(self._loaded["base"]) is view_of(self._loaded["tuned"])
        for side, name in zip(SIDES, names, strict=True):
            found[side] = replace(found[side], provenance=replace(found[side].provenance, model=name))
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
        if side not in self._remembered:
            self._remembered[side] = Known.of(view, sample=self._keep == "one")

    @cached_property
    def shared_tokens(self) -> SharedTokens:
        """Ids, in the base and in the tuned model, of the token strings that both vocabularies and embeddings have."""
        mine, theirs = (self._known[side].vocabulary for side in SIDES)
        if mine is None or theirs is None:
            ids = torch.arange(min(self._known[side].facts.d_vocab for side in SIDES))
            return ids, ids
        sizes = [self._known[side].facts.d_vocab for side in SIDES]
        shared = sorted(
            (i, theirs[t]) for t, i in mine.items() if t in theirs and i < sizes[0] and theirs[t] < sizes[1]
        )
        base, tuned = zip(*shared, strict=True)
        return torch.tensor(base), torch.tensor(tuned)

    def provenance(self, analysis: str, options: dict[str, Any], seed: int | None = None) -> Provenance:
        """Return where a result of both models comes from: the tuned model's, with the base in its name and options.

        Where the two are one model, `options["notice"]` says so.

        Args:
            analysis: its name.
            options: what it was called with.
            seed: of what is random in it.
        """
        found = self._known["tuned"].provenance
        said = {"base": self.ids[0]} | ({"notice": self.notice} if self.notice else {})
        return replace(found, analysis=analysis, model=" -> ".join(self.ids), options=options | said, seed=seed)

    def control(self, kind: Kind | str = "spectrum", seed: int = 0, **options: Any) -> ModelView:
        """Return a model made from the base by a meaningless change of the size of the real one, weight by weight.

        Args:
            kind: "distilled" (the base trained on its own samples), "shuffled" (on tuning data, responses permuted over
                prompts), "gradient-noise" (the base's gradients summed with random signs, the real change's singular
                values), "spectrum" (base + U' S V'^T with the real change's singular values S and random orthonormal
                U', V'), "norm" (base + Gaussian noise of the real change's Frobenius norm) or "self" (no change).
            seed: of everything that is random; kinds of one seed share no random numbers.
            options: "distilled": steps, rate, batch, length, rank, cache; "shuffled": the same and data, a list of
                (prompt, response); "gradient-noise": texts, tokens, divide, cache (`controlling.options` has the
                defaults). `cache` is the folder in which what is expensive is kept between runs: True for one of the
                user's cache, None for nowhere.

        Matrices are the checkpoint's: all heads of W_Q as one, keys and values with their key-value heads. Embeddings
        are matrices too: tied ones stay tied, and where the vocabularies differ only shared tokens' rows change. Norm
        gains and biases move by their real distance. What the tuned model left alone stays exactly as it is. Weights
        are computed when they are read, and training begins there; a forward pass makes a whole model (`free` lets go
        of it).

        Raises:
            InputError: `kind` is unknown, an option is unknown, another kind's or not what is expected, the pair keeps
                one model, or one model is folded and the other not.
        """
        change = self.change()
        views = view_of(self.base), view_of(self.tuned)
        return control_view(*views, change, kind, seed, options=options, workshop=self._workshop)

    @cached_property
    def _workshop(self) -> Workshop:
        return Workshop(view_of(self.base), view_of(self.tuned), self._change)

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
            InputError: the two are not in the same state ("raw", "folded", "as given").
        """
        base, tuned = (self._known[side].facts.weights for side in SIDES)
        if "folded" in (base, tuned) and base != tuned:
            raise InputError(
                f"weights cannot be compared: those of the base are {base}, those of the tuned model {tuned}"
            )

    @cached_property
    def _change(self) -> RealChange:
        return RealChange(view_of(self.base).weights, view_of(self.tuned).weights, self.shared_tokens)

    @cached_property
    def equal(self) -> bool:
        """Whether all weights of the two models are equal (in one dtype and one wrapper)."""
        if self._keep == "both":
            return equal_weights(view_of(self.base), view_of(self.tuned))
        if self._known["base"].seen.sample != self._known["tuned"].seen.sample:
            return False
        return fingerprint(view_of(self.base), whole=True) == fingerprint(view_of(self.tuned), whole=True)

    @property
    def notice(self) -> str:
        """What stands on the first line of every output: that the weights are equal, where they are, else ""."""
        if not self.equal:
            return ""
        return equal_weights_notice(self._known["base"].seen, self._known["tuned"].seen)

    def differences(self) -> pd.DataFrame:
        """Return what differs between the models beside their weights, one row each: what, base, tuned, meaning.

        Where all weights are equal, the first row says so.
        """
        rows = [(EQUAL_WEIGHTS, "all", "all", self.notice)] if self.equal else []
        rows += differences(self._known["base"], self._known["tuned"])
        return pd.DataFrame(rows, columns=["what", "base", "tuned", "meaning"])

    def compare(self, analysis: Callable[Concatenate[Model, P], R], *arguments: P.args, **options: P.kwargs) -> Diff[R]:
        """Run an analysis of one model on both, with the same arguments: `analysis(model, *arguments, **options)`.

        Where an option is about both models (the target "choice" of `attribute`), the analysis says what it means for
        this pair by a function `in_pair`, before either is run. With `template="chat"` both read the prompts as the
        tuned model's chat template writes them.

        Args:
            analysis: a function of one model.
            arguments, options: its own.

        Returns:
            `Diff`, whose `base` and `tuned` are what the analysis returned; `to_df`, `top` and `show` have both.
        """
        both: Any = options
        if both.get("template", RAW) != RAW:
            both["template"] = template_of(both["template"], self)
        prepare: Any = getattr(analysis, "in_pair", None)
        if prepare is not None:
            arguments, options = prepare(self, *arguments, **options)  # pyright: ignore[reportAssignmentType]
        # both in one line: what it warns of in both models is shown once
        base, tuned = [analysis(getattr(self, side), *arguments, **options) for side in SIDES]
        return Diff(base, tuned, notice=self.notice)


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

    Args:
        base: the base model, whatever `load_model` takes: a hub name, a folder, a `.gguf` file, a model in memory.
        tuned: its tuned version, likewise; or a folder with a LoRA adapter.
        keep: "both" models in memory, or "one" at a time (names or paths alone; nothing that compares weights).
        base_options, tuned_options: options of `load_model` for one of them, before those for both.
        options: of `load_model`, for both: revision, weights, wrapper, device, dtype, verify, ...

    Returns:
        `ModelPair`, both models loaded and found comparable; `differences()` has what differs beside their weights.

    Raises:
        InputError: a load fails, or the models cannot be compared (another architecture, shape or tokenizer), with the
            reason.
    """
    if options.get("stream"):
        keep = "both"  # of neither is more than a layer in memory
    sides = {"base": dict(options) | dict(base_options or {}), "tuned": dict(options) | dict(tuned_options or {})}
    if is_adapter(tuned) and not (isinstance(base, ModelView) or is_hooked(base) or is_bridge(base)):
        inherited = {"base": base, "revision": sides["base"].get("revision")}
        sides["tuned"] = inherited | sides["tuned"]
    pair = ModelPair({"base": base, "tuned": tuned}, sides, keep)
    pair.check()
    return pair
