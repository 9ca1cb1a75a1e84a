"""One call of patching: which model gives and which is patched, prompt by prompt, then control by control.

A pair that keeps one model loads each in turn; of a text nothing is kept but its tokens once it was read.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensdiff.analyses.attribute.targets import Target
from lensdiff.analyses.patch.defaults import MAX_BYTES
from lensdiff.analyses.patch.metrics import Metric, name_of, targets_of
from lensdiff.analyses.patch.passes import Activations, Reader, Row, estimated, part_of, patched, read
from lensdiff.analyses.patch.result import Patched
from lensdiff.analyses.patch.sites import NO_HEAD, At, Site, other_heads, places_of, positions_of
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import Model, ModelView, Point, view_of
from lensdiff.models.aligned_text import AlignedText, align_text
from lensdiff.models.asked import Asked, Given
from lensdiff.models.inside.parts import Sizes
from lensdiff.models.pair import ModelPair
from lensdiff.results import InputError, Provenance
from lensdiff.results.diff import SIDES


@dataclass
class Found:
    """What one prompt gives: an entry per row, all directions behind each other."""

    clean: list[float]
    donor: list[float]
    effect: Tensor
    estimate: Tensor
    other: Tensor


@dataclass
class Run:
    """One call: the pair, the prompts, and what is asked of them."""

    pair: ModelPair
    asked: Asked
    into: tuple[str, ...]
    metric: Metric
    seed: int
    max_new_tokens: int
    prepend_bos: bool | None
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        if not self.into or len(set(self.into)) < len(self.into) or not set(self.into) <= set(SIDES):
            given = self.into[0] if len(self.into) == 1 else list(self.into)
            raise InputError(f"into={given!r} given, expected base, tuned, or both")
        self.targets: Mapping[str, Target] = targets_of(self.pair, self.metric)

    @property
    def sizes(self) -> Sizes:
        return view_of(self.pair.base).weights.sizes

    def align(self, prompt: Prompt, response: Given) -> AlignedText:
        options: Any = {"max_new_tokens": self.max_new_tokens, "prepend_bos": self.prepend_bos}
        return align_text(self.pair, prompt, response, **options)

    def result(
        self,
        analysis: str,
        sites: Sequence[Site],
        controls: Iterable[Model],
        progress: bool | None,
        *,
        rerun: int | None = None,
        least_total: float,
        level: float,
    ) -> Patched:
        """Return the sites' effects in every direction, on every prompt, beside controls."""
        if not (isinstance(controls, Sequence) and not controls) and "base" not in self.into:
            raise InputError("controls are put into the base, and into='tuned' is given")
        texts: dict[str, AlignedText] = {}
        others = other_heads(self.sizes, sites, self.seed)

        def work(prompt: Prompt, response: Given) -> Found:
            texts[prompt.id] = self.align(prompt, response)
            return self._found(texts[prompt.id], sites, others, estimate=rerun is not None)

        found = self.asked.each(work, "patching", progress)
        if rerun is not None and found:
            found = self._rerun(texts, found, sites, others, rerun)
        self.asked.settle(stacklevel=4)
        texts = {name: texts[name] for name in found}
        into = tuple(side for side in self.into for _ in sites)
        effect = torch.stack([one.effect for one in found.values()])
        several = tuple(site for _ in self.into for site in sites)
        beside, effects = [], []
        for control in controls:
            view = view_of(control)
            was_made = view.is_made
            effects.append(self.of_control(view, texts, several, into, effect))
            beside.append(view.provenance(analysis, {}))
            if not was_made:
                view.free()
        options = {"metric": name_of(self.metric), "into": list(self.into), "rerun": rerun, "least_total": least_total}
        options |= {"max_new_tokens": self.max_new_tokens, "prepend_bos": self.prepend_bos, "level": level}
        provenance = self.pair.provenance(analysis, options, self.seed).beside(beside)
        more = {"metric": options["metric"], "failures": self.asked.failures} | {"least_total": least_total}
        return self.asked.stamped(_result(provenance, several, into, found, effects, more | {"level": level}))

    def _found(self, text: AlignedText, sites: Sequence[Site], others: Mapping[Site, Site], *, estimate: bool) -> Found:
        """Return one prompt's effects, or with `estimate` its estimates alone."""
        places, found = places_of(text, sites), Found([], [], *(torch.zeros(0, dtype=torch.float64) for _ in range(3)))
        both: list[Site] = [*sites, *([] if estimate else others.values())]
        wanted = tuple(dict.fromkeys(both))
        acts = {side: self._read(text, side, getattr(self.pair, side), wanted) for side in reversed(SIDES)}
        for side in self.into:
            own, donor = acts[side], acts[_other(side)]
            reader = Reader.of(view_of(getattr(self.pair, side)), text, side, self.targets[side])
            rows = self._rows(reader.view, wanted, places, own, donor)
            effects = estimated(reader, list(rows.values())) if estimate else self._effects(reader, own, rows)
            by_site = dict(zip(rows, effects.tolist(), strict=True))
            values = torch.tensor([by_site.get(site, np.nan) for site in sites], dtype=torch.float64)
            nothing = torch.full_like(values, torch.nan)
            beside = [by_site.get(others.get(site), np.nan) for site in sites]  # type: ignore[arg-type]
            found.clean += [own.score] * len(sites)
            found.donor += [donor.score] * len(sites)
            found.effect = torch.cat([found.effect, nothing if estimate else values])
            found.estimate = torch.cat([found.estimate, values if estimate else nothing])
            found.other = torch.cat(
                [found.other, torch.tensor(beside, dtype=torch.float64) if not estimate else nothing]
            )
        return found

    def _rerun(
        self,
        texts: Mapping[str, AlignedText],
        found: Mapping[str, Found],
        sites: Sequence[Site],
        others: Mapping[Site, Site],
        rerun: int,
    ) -> dict[str, Found]:
        """Run the rows whose estimates are largest, mean over prompts, and set them beside these.

        A prompt that has no position of these rows keeps its estimates alone; one that fails is left out.
        """
        size = torch.stack([one.estimate.abs().nan_to_num(0.0) for one in found.values()]).mean(dim=0)
        exact = dict(found)
        for i, side in enumerate(self.into):
            own = slice(i * len(sites), (i + 1) * len(sites))
            first = size[own].argsort(descending=True, stable=True)[:rerun].tolist()
            alone = replace(self, into=(side,))
            for name in found:
                text = texts[name]
                there = [j for j in first if len(positions_of(text, sites[j].at))]
                if not there or name in self.asked.errors:
                    continue
                some = [sites[j] for j in there]
                beside = {site: others[site] for site in some if site in others}
                with self.asked.guard(text.prompt):
                    run = alone._found(text, some, beside, estimate=False)
                    for what in ("effect", "other"):
                        getattr(exact[name], what)[[own.start + j for j in there]] = getattr(run, what)
        return {name: one for name, one in exact.items() if name not in self.asked.errors}

    def _read(self, text: AlignedText, side: str, model: Model, sites: Iterable[Site]) -> Activations:
        """Return what a model has at all sites, and the stream wherever a pass may start."""
        view = view_of(model)
        n_layers = view.n_layers
        layers = dict.fromkeys(min(site.layer, n_layers - 1) for site in sites)
        points = [*(Point("resid_pre", layer) for layer in layers), *(site.point(n_layers) for site in sites)]
        return read(Reader.of(view, text, side, self.targets[side]), points)

    def _rows(
        self, view: ModelView, sites: Iterable[Site], places: Mapping[At, Tensor], own: Activations, donor: Activations
    ) -> dict[Site, Row]:
        """Return the rows of the sites that the text has positions of."""
        n_layers, found = view.n_layers, {}
        for site in sites:
            if len(places[site.at]):
                head = None if site.head == NO_HEAD else site.head
                found[site] = (part_of(site.point(n_layers), head, places[site.at], own, donor),)
        return found

    def _effects(self, reader: Reader, own: Activations, rows: Mapping[Site, Row]) -> Tensor:
        return patched(reader, own, list(rows.values()), max_bytes=self.max_bytes)

    def of_control(
        self,
        control: ModelView,
        texts: Mapping[str, AlignedText],
        sites: Sequence[Site],
        into: Sequence[str],
        effect: Tensor,
    ) -> Tensor:
        """Return the effects of a control's activations in the base, [prompt row]; NaN where the pair has none.

        Raises:
            InputError: the control has another vocabulary than the base.
        """
        base, found = view_of(self.pair.base), torch.full_like(effect, torch.nan)
        if control.d_vocab != base.d_vocab:
            raise InputError(
                f"control {control.info.id} has d_vocab {control.d_vocab}, expected the base's {base.d_vocab}"
            )
        for i, text in enumerate(texts.values()):
            run = [j for j, side in enumerate(into) if side == "base" and not effect[i, j].isnan()]
            some = [sites[j] for j in run]
            if not some:
                continue
            own = self._read(text, "base", self.pair.base, some)
            donor = read(Reader.of(control.whole(), text, "base", self.targets["base"]), own.at)
            reader = Reader.of(base, text, "base", self.targets["base"])
            rows = self._rows(base, tuple(dict.fromkeys(some)), places_of(text, some), own, donor)
            by_site = dict(zip(rows, self._effects(reader, own, rows).tolist(), strict=True))
            found[i, run] = torch.tensor([by_site[site] for site in some], dtype=torch.float64)
        return found


def _other(side: str) -> str:
    return SIDES[1 - SIDES.index(side)]


def _result(
    provenance: Provenance,
    sites: Sequence[Site],
    into: tuple[str, ...],
    found: Mapping[str, Found],
    controls: Sequence[Tensor],
    more: Mapping[str, Any],
) -> Patched:
    def each(of: Callable[[Found], Tensor]) -> Tensor:
        return torch.stack([of(one) for one in found.values()])

    effect = each(lambda one: one.effect)
    return Patched(
        provenance,
        prompt_id=tuple(found),
        component=tuple(site.component for site in sites),
        layer=torch.tensor([site.layer for site in sites]),
        head_index=torch.tensor([site.head for site in sites]),
        at=tuple(site.where for site in sites),
        into=into,
        clean=each(lambda one: torch.tensor(one.clean, dtype=torch.float64)),
        donor=each(lambda one: torch.tensor(one.donor, dtype=torch.float64)),
        effect=effect,
        estimate=each(lambda one: one.estimate),
        other_effect=each(lambda one: one.other),
        control_effect=torch.stack(list(controls)) if controls else torch.zeros(0, *effect.shape, dtype=torch.float64),
        **more,
    )
