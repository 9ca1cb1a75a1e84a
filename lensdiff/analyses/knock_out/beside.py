"""A pair's result beside controls that were read apart."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from lensdiff.analyses.knock_out.shift import KnockOutShift
from lensdiff.results import InputError


def with_controls(pair: KnockOutShift, controls: Sequence[KnockOutShift]) -> KnockOutShift:
    """Return the pair's result with controls that were read apart, each on the same texts.

    A prompt that a control lacks on a text that the pair has is left out of all, and listed among the failures.

    Raises:
        InputError: what is given is no pair, or no control read by itself; a control was read on other texts or tokens,
            or no prompt is left.
    """
    _check(pair, controls)
    lengths = dict(zip(zip(pair.prompt_id, pair.text, strict=True), pair.n_out.tolist(), strict=True))
    failures = dict(pair.failures)
    for control in controls:
        own = dict(zip(zip(control.prompt_id, control.text, strict=True), control.n_out.tolist(), strict=True))
        for key, n in lengths.items():
            if key not in own:
                failures[key[0]] = control.failures.get(key[0], f"{control.models[0]} has nothing on text {key[1]!r}")
            elif own[key] != n:
                raise InputError(
                    f"control {control.models[0]} read {own[key]} tokens of text {key[1]!r} of prompt {key[0]!r}, "
                    f"expected the pair's {n}"
                )
    if lengths and failures.keys() >= {name for name, _ in lengths}:
        name, reason = next((name, failures[name]) for name, _ in lengths)
        raise InputError(f"no prompt of the pair was read in every control; {name!r}: {reason}")
    parts = [pair, *controls]
    firsts = [0, *(len(pair.models) + i for i in range(len(controls)))]
    rows = [(p, r) for p, part in enumerate(parts) for r, name in enumerate(part.prompt_id) if name not in failures]
    per_row = {
        name: torch.stack([getattr(parts[p], name)[r] for p, r in rows]) if rows else getattr(pair, name)[:0]
        for name in pair.PER_ROW
    }
    places = [range(*parts[p].first_token[r : r + 2].tolist()) for p, r in rows if p == 0]
    kept = torch.tensor([place for own in places for place in own], dtype=torch.int64)
    lengths_kept = [len(own) for own in places] + [0] * (len(rows) - len(places))
    beside = (*pair.provenance.controls, *(control.provenance.as_control for control in controls))
    return replace(
        pair,
        provenance=replace(pair.provenance, controls=beside),
        models=(*pair.models, *(control.models[0] for control in controls)),
        prompt_id=tuple(parts[p].prompt_id[r] for p, r in rows),
        text=tuple(parts[p].text[r] for p, r in rows),
        model=torch.tensor([int(parts[p].model[r]) + firsts[p] for p, r in rows], dtype=torch.int64),
        first_token=torch.tensor([0, *np.cumsum(lengths_kept).tolist()], dtype=torch.int64),
        out_tokens=tuple(pair.out_tokens[i] for i in kept.tolist()),
        token_log_prob=pair.token_log_prob[kept],
        token_drop=pair.token_drop[:, kept],
        token_random=pair.token_random[:, kept],
        failures=failures,
        **per_row,
    )


def _check(pair: KnockOutShift, controls: Sequence[KnockOutShift]) -> None:
    if not pair.is_pair:
        raise InputError(f"controls are set beside {pair.models[0]}, expected a pair")
    for control in controls:
        if len(control.models) > 1:
            raise InputError(f"a control of {len(control.models)} models is given, expected one that was read alone")
        if control.texts != pair.texts:
            raise InputError(
                f"control {control.provenance.model} was read on the texts {', '.join(control.texts)}, expected "
                f"{', '.join(pair.texts)} as the pair"
            )
