"""One number along a list of models: training steps, base, SFT and DPO, doses.

    value[k] = m(model k)             where the measure is of a model ("instruction_use.use")
    value[k] = m(model 0, model k)    where it is of two ("weights.relative_norm"): each against the first

So a measure of two models says at step 0 what it says of a model and itself: 0 of a distance, 1 of a similarity. All
models read the same texts: each prompt's reference, or the first model's own response where it has none. Means are over
the prompts that have a number in every model, with t intervals; `changes` has the paired differences from the first.
Differences are model - first.

A model is measured by itself and kept (`SeriesPoint`): `lensdiff series` measures those alone that its directory does
not have. Memory: two models. Ignored: that prompts are few and shared by all steps, so neighbouring points are not
independent; and control models, which stand beside one pair (`lensdiff run`). Reference: ours.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lensdiff.analyses.instruction_use.defaults import DRAWS
from lensdiff.analyses.series.measures import Measure, Read, measure_of
from lensdiff.analyses.series.result import Series, SeriesPoint
from lensdiff.defaults import MAX_NEW_TOKENS
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import view_of
from lensdiff.models.asked import Asked
from lensdiff.models.given import described, is_model
from lensdiff.models.loading.load import load_model
from lensdiff.models.loading.sources import is_adapter
from lensdiff.models.pair import ModelPair, load_pair
from lensdiff.models.text import encode, generate
from lensdiff.results import InputError, Results
from lensdiff.results.numbers import check_counts, check_seed
from lensdiff.results.paths import as_path
from lensdiff.stats.result import USUAL_LEVEL
from lensdiff.stats.samples import check_level

FEWEST = 2  # models


def series(
    models: Any,  # what is no list of models is refused in words
    measure: Any,
    prompts: Any = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    level: float = USUAL_LEVEL,
    load_options: Mapping[str, Any] | None = None,
) -> Series:
    """Return one number along a list of models; see the module.

    Args:
        models: at least two: names, paths, LoRA adapters or models, in order; one may come twice.
        measure: a name (`lensdiff.analyses.series.measures` has all), or a function of (pair), with prompts of (pair,
            prompts), which gives a number, or one for each prompt by its id; the pair is the first model and the one
            that is measured.
        prompts: a prompt or a list of them, for a measure that reads text; as they are: `Prompt.render` writes them in
            a chat template, of whichever model's it is to be for all.
        draws, seed: of other prompts' instructions, for instruction use.
        max_new_tokens: of the first model's own response, where a prompt has no reference.
        level: of the intervals over prompts.
        load_options: go to `load_model` for each.

    Raises:
        InputError: fewer than two models, one that cannot be loaded or compared with the first (another architecture,
            shape or tokenizer), no such measure, a measure of text without prompts or with none that has a number.
    """
    found = Along(models, measure, prompts, draws, seed, max_new_tokens, level, load_options or {})
    points: list[SeriesPoint] = []
    for step in range(len(found.models)):
        points.append(found.point(step, points[0].texts if points else None))
    return found.of(points)


class Along:
    """A series as it is measured: model by model, the first held as long as it lives.

    Attributes:
        models: as given; names: what they are called.
        measure: what is measured; prompts: what it reads.
    """

    def __init__(
        self,
        models: Any,
        measure: Any,
        prompts: Any,
        draws: int,
        seed: int,
        max_new_tokens: int,
        level: float,
        options: Mapping[str, Any],
    ):
        self.models = _listed(models)
        self.measure: Measure = measure_of(measure)
        check_counts(draws=draws, max_new_tokens=max_new_tokens)
        check_seed(seed)
        check_level(level)
        if self.measure.reads and prompts is None:
            raise InputError(f"measure {self.measure.name!r} reads prompts, and none are given: give prompts=")
        self.prompts = () if prompts is None else Asked.of(_as_list(prompts)).prompts
        self.names = _names(self.models)
        self._draws, self._seed, self._longest, self._level = draws, seed, max_new_tokens, level
        self._options = dict(options)
        self._first: Any = None

    def point(self, step: int, texts: Mapping[str, str] | None = None) -> SeriesPoint:
        """Return the number of one model.

        Args:
            texts: the responses that all models read, as an earlier point has them.

        Raises:
            InputError: it cannot be compared with the first, or has no number.
        """
        pair = self._pair(step)
        if texts is None:
            texts = self._texts()
        read = [prompt for prompt in self.prompts if self.measure.of == "own" or prompt.id in texts]
        given = Read(pair, read, [texts.get(prompt.id, "") for prompt in read], self._draws, self._seed)
        self._check_tokens(step, pair, given)
        try:
            found = self.measure.find(given)
        except InputError as error:
            raise InputError(f"{self.names[step]}: {error}") from error
        ids, values = self._numbers(found)
        options = {"measure": self.measure.name, "draws": self._draws, "max_new_tokens": self._longest}
        return SeriesPoint(
            pair.provenance("series", options, self._seed),
            self.measure.name,
            self.measure.unit,
            self.measure.of,
            ids,
            torch.tensor(values, dtype=torch.float64),
            dict(texts),
            {p.id: "it was not read" for p in self.prompts if ids and p.id not in ids},
            bool(pair.equal),
        )

    def of(self, points: Sequence[SeriesPoint]) -> Series:
        """Return the series of all points.

        Raises:
            InputError: no prompt has a number in every model.
        """
        return Series.of_points(points, self.names, self._level)

    @property
    def first(self) -> Any:
        """The view of the first model, loaded when it is first asked for."""
        if self._first is None:
            given = self.models[0]
            self._first = view_of(given if is_model(given) else load_model(given, **self._options))
        return self._first

    def _pair(self, step: int) -> ModelPair:
        given = self.models[step]
        base = self.models[0] if is_adapter(given) and not is_model(self.models[0]) else self.first
        other = self.first if step == 0 or given is self.models[0] else given
        try:
            return load_pair(base, other, **({} if is_model(base) and is_model(other) else self._options))
        except InputError as error:
            raise InputError(f"models[{step}] cannot stand in a series after {self.names[0]}: {error}") from error

    def _check_tokens(self, step: int, pair: ModelPair, given: Read) -> None:
        """Refuse a model that reads prompts and texts as other tokens than the first.

        Raises:
            InputError: with the prompt.
        """
        if not self.measure.reads or pair.digests[0] == pair.digests[1]:
            return
        views = view_of(pair.base), view_of(pair.tuned)
        for prompt, text in zip(given.prompts, given.texts, strict=True):
            mine, its = (encode(view, prompt, text).ids for view in views)
            if mine != its:
                raise InputError(
                    f"models[{step}] cannot stand in a series after {self.names[0]}: its tokenizer reads prompt "
                    f"{prompt.id!r} as other tokens"
                )

    def _texts(self) -> dict[str, str]:
        if not self.measure.reads:
            return {}
        texts = {prompt.id: prompt.reference for prompt in self.prompts if prompt.reference.strip()}
        own = [prompt for prompt in self.prompts if prompt.id not in texts]
        if own:
            said = generate(self.first, own, max_new_tokens=self._longest, progress=False)
            assert isinstance(said, Results)
            texts |= {name: response.text for name, response in said.by_id.items() if response.text.strip()}
        return texts

    def _numbers(self, found: Any) -> tuple[tuple[str, ...], list[float]]:
        """Return the prompts' ids and their numbers, or none and the only number.

        Raises:
            InputError: a function gave something else.
        """
        if isinstance(found, Mapping) and found:
            known = {prompt.id for prompt in self.prompts}
            if not set(found) <= known:
                raise InputError(
                    f"measure {self.measure.name} gives a number for {min(set(found) - known)!r}, no prompt"
                )
            return tuple(found), [float(value) for value in found.values()]
        given: Any = found
        try:
            value = float(given)
        except (TypeError, ValueError):
            kind = type(found).__name__
            raise InputError(
                f"measure {self.measure.name} gives a {kind}, expected a number or one by prompt"
            ) from None
        if value != value:
            raise InputError(f"measure {self.measure.name} gives no number (NaN)")
        return (), [value]


def _listed(models: Any) -> list[Any]:
    if isinstance(models, str | Path) or is_model(models) or not isinstance(models, Sequence):
        raise InputError(f"series takes a list of at least {FEWEST} models, given {described(models)}")
    if len(models) < FEWEST:
        raise InputError(f"series takes a list of at least {FEWEST} models, given {len(models)}")
    return list(models)


def _as_list(prompts: Any) -> Any:
    return [prompts] if isinstance(prompts, Prompt | str) else prompts


def _names(models: Sequence[Any]) -> list[str]:
    """Return what models are called: the shortest ends of paths that tell them apart; one that comes twice twice."""
    parts = [_parts(model) for model in models]
    names = ["/".join(part[-1:]) for part in parts]
    for i, part in enumerate(parts):
        others = [other for other in parts if other != part]
        n = 1
        while n < len(part) and any(other[-n:] == part[-n:] for other in others):
            n += 1
        names[i] = "/".join(part[-n:])
    return [_numbered(names, models, i) for i in range(len(models))]


def _numbered(names: Sequence[str], models: Sequence[Any], place: int) -> str:
    """Return a name, with a number where it is that of another object in memory, too."""
    own = models[place]
    if isinstance(own, str | Path):
        return names[place]
    alike = dict.fromkeys(id(m) for m, name in zip(models, names, strict=True) if name == names[place])
    number = list(alike).index(id(own)) + 1
    return f"{names[place]} ({number})" if number > 1 else names[place]


def _parts(model: Any) -> tuple[str, ...]:
    if isinstance(model, str | Path):
        path = as_path(model, "a model")
        return tuple(path.absolute().parts) if path.exists() else (str(model),)
    return (view_of(model).info.id,) if is_model(model) else (type(model).__name__,)
