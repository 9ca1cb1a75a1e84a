"""What each of the paper's claims rests on for one pair; `claims` puts it into words.

    instruction   paired t over prompts of instruction score (tuned) - instruction score (base), own responses;
                  check: the same with both responses of a prompt cut to the shorter one's length
                  controls: the mean over the same prompts of score (control) - score (base)
    heads         difference of `verb_shift` for all layers, less that of the controls
    rotation      the whole model's mean principal angle less that of the controls, in degrees

No statistic is computed here but by `stats`. Reference: Wu et al., NAACL 2024; doi 10.18653/v1/2024.naacl-long.130.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from lensdiff.analyses import density as importance
from lensdiff.analyses import stats
from lensdiff.analyses.attribution import Attribution
from lensdiff.analyses.claims import Claims, ControlNumbers, Evidence, Name, claims
from lensdiff.analyses.rotation import HEADLINE, Rotation, statistic
from lensdiff.analyses.verb_shift import VerbShift
from lensdiff.results import InputError, Provenance, ResultStore

FEWEST_FOR_BAND = 3
STEPS: dict[Name, str] = {"instruction": "instruction_scores", "heads": "verb_shift", "rotation": "rotation"}
BEYOND = ", beyond what a meaningless change does"
KINDS = ("spectrum", "norm")  # of controls, the headline first


def claims_of(store: ResultStore) -> Claims:
    """Answer the claims from a results directory (`instruction_scores`, `verb_shift`, `rotation`)."""
    found: dict[Name, Evidence | str] = {}
    if store.has_table("instruction_scores"):
        names = [store.names(f"attribution/{side}/") for side in ("base", "tuned")]
        sides = [[store.load_result(name, Attribution) for name in side] for side in names]
        found["instruction"] = instruction_evidence(
            store.load_table("instruction_scores"), scores_at_one_length(*sides)
        )
    if store.has("verb_shift"):
        found["heads"] = heads_evidence(store.load_result("verb_shift", VerbShift))
    if store.has("rotation"):
        found["rotation"] = rotation_evidence(store.load_result("rotation", Rotation))
    for name, step in STEPS.items():
        state = store.step(step)
        if name not in found and state.note:
            found[name] = state.note.rstrip(".")
    names = [str(store.manifest.pair.get(side, {}).get("model", side)) for side in ("base", "tuned")]
    return claims(Provenance("claims", " -> ".join(names)), found)


def instruction_evidence(scores: pd.DataFrame, one_length: pd.DataFrame | None = None) -> Evidence | str:
    """Return what the first claim rests on: the paired test of the instruction scores of both models' own responses.

    Args:
        scores: rows of prompt_id, model ("base", "tuned", "control"), kind, seed, instruction_score, n_out; prompts
            without an instruction are not in it.
        one_length: rows of prompt_id, base, tuned: the scores with both responses cut to one length. A longer response
            can spread its importance wider, so the answer must hold there too.
    """
    sides = {name: _by_prompt(_rows(scores, "model", name)) for name in ("base", "tuned")}
    shared = sides["base"].index.intersection(sides["tuned"].index)
    if len(shared) < 2:
        return f"{len(shared)} prompt(s) with an instruction have a score of both models, at least 2 are needed"
    base, tuned = (sides[name].loc[shared] for name in ("base", "tuned"))
    pair = tuned["instruction_score"].to_numpy(), base["instruction_score"].to_numpy()
    control, effect = _control_scores(scores, base["instruction_score"], tuned["instruction_score"])
    means = f"mean score {pair[1].mean():.3f} in the base, {pair[0].mean():.3f} in the tuned model"
    lengths = f"mean response {base['n_out'].mean():.3g} and {tuned['n_out'].mean():.3g} tokens"
    return Evidence(
        _paired(*pair),
        (
            "The instruction's importance rose",
            "The instruction's importance fell",
            "No change of the instruction's importance could be shown",
        ),
        control,
        effect=effect,
        check=_check(one_length),
        check_words="with both responses cut to the shorter one's length",
        facts=(f"{len(shared)} prompts", means, lengths),
        also=tuple(_in_other_ways(base, tuned)),
    )


def scores_at_one_length(base: Sequence[Attribution], tuned: Sequence[Attribution]) -> pd.DataFrame:
    """Return each prompt's instruction scores with both responses cut to the shorter one's length.

    Columns: prompt_id, base, tuned, n_out; prompts that both models have and that mark an instruction.
    """
    others = {result.prompt_id: result for result in tuned}
    rows = []
    for one in base:
        other = others.get(one.prompt_id)
        if other is not None and bool(one.instruction.any()):
            n = min(one.scores.shape[1], other.scores.shape[1])
            rows.append((one.prompt_id, _score(one, n), _score(other, n), n))
    return pd.DataFrame(rows, columns=["prompt_id", "base", "tuned", "n_out"])


def _score(result: Attribution, n_out: int) -> float:
    found = importance.importance_density(importance.importance_levels(result.scores[:, :n_out]))
    return importance.instruction_score(found, result.instruction)


def _check(one_length: pd.DataFrame | None) -> stats.Test | None:
    if one_length is None or len(one_length) < 2:
        return None
    return _paired(one_length["tuned"].to_numpy(), one_length["base"].to_numpy())


def _rows(frame: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    return pd.DataFrame(frame[frame[column] == value])


def _by_prompt(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop_duplicates("prompt_id").set_index("prompt_id")


def _paired(tuned, base) -> stats.Test:
    try:
        return stats.paired(tuned, base)
    except stats.NoVariation:  # every prompt differs by the same amount: no t statistic
        return stats.sign_flip(tuned - base)


def _in_other_ways(base: pd.DataFrame, tuned: pd.DataFrame) -> list[stats.Test]:
    """Return the paper's own test, and the effect at equal response length, as far as the data allow them."""
    answered = base.index.intersection(tuned.index)
    both = pd.concat([base.loc[answered].assign(group=0.0), tuned.loc[answered].assign(group=1.0)])
    ways = (
        lambda: stats.welch(tuned["instruction_score"], base["instruction_score"], alternative="greater"),
        lambda: stats.covariate(
            both["instruction_score"], both["group"], both["n_out"], errors="HC3", pairs=list(both.index)
        ),
    )
    found = []
    for way in ways:
        try:
            found.append(way())
        except InputError:  # no variation, or lengths that tell the models apart
            continue
    return found


def _control_scores(
    scores: pd.DataFrame, base: pd.Series, tuned: pd.Series
) -> tuple[ControlNumbers | None, float | None]:
    """Return the controls' mean differences from the base, and tuned - base on the prompts that all of them have."""
    rows = _rows(scores, "model", "control")
    kind = next((kind for kind in KINDS if kind in set(rows["kind"])), None)
    if kind is None:
        return None, None
    runs = [_by_prompt(group)["instruction_score"] for _, group in _rows(rows, "kind", kind).groupby("seed")]
    shared = base.index
    for run in runs:
        shared = shared.intersection(run.index)
    if not len(shared):
        return None, None
    effects = [float((run.loc[shared] - base.loc[shared]).mean()) for run in runs]
    return control_numbers(kind, effects), float((tuned.loc[shared] - base.loc[shared]).mean())


def control_numbers(kind: str, effects: list[float]) -> ControlNumbers:
    """Return mean and band of the controls' effects; no band from fewer than three."""
    low = high = None
    if len(effects) >= FEWEST_FOR_BAND:
        band = stats.control_band(effects)
        low, high = float(band.low), float(band.high)
    return ControlNumbers(kind, len(effects), sum(effects) / len(effects), low, high)


def rotation_evidence(rotation: Rotation) -> Evidence | str:
    """Return what the third claim rests on: the whole model's statistic less that of its spectrum-matched controls."""
    if rotation.claim is None:
        return "no spectrum-matched controls were run, and an angle without them says nothing"
    angle = math.degrees(statistic(rotation.angles.nanmean(dim=-1).numpy()))
    test = _in_degrees(rotation.claim)
    control = _control_of(test, angle, HEADLINE, rotation.n_controls[rotation.kinds.index(HEADLINE)])
    ranks = ", ".join(map(str, rotation.ranks))
    return Evidence(
        test,
        (
            "Feed-forward concepts turned further than a meaningless change of the same size turns them",
            "Feed-forward concepts turned less than a meaningless change of the same size turns them",
            "It could not be shown that feed-forward concepts turned further than a meaningless change turns them",
        ),
        control,
        effect=angle,
        unit=" degrees",
        against_controls=True,
        facts=(f"mean principal angle {angle:.3g} degrees at ranks {ranks}", f"{len(rotation.layers)} layers"),
    )


def heads_evidence(shift: VerbShift) -> Evidence | str:
    """Return what the second claim rests on: the whole model's difference between verbs and matched control verbs.

    With control models its test is against theirs; without, sign flips over heads.
    """
    whole = shift.whole
    if whole.difference is None:
        return whole.note.removeprefix("not testable: ") or "too few verbs stand in the heads' word pairs"
    test, kinds = shift.claim or whole.head_test, shift.provenance.options["control_kinds"]
    if test is None:
        return whole.note or "no head differs between verbs and control verbs"
    control = None
    if shift.claim is not None:
        control = _control_of(test, whole.difference, kinds[0], test.n[0])
    facts = (
        f"share of differing heads in which a verb rose: {whole.matched_mean:.3f} for instruction verbs, "
        f"{whole.matched_control_mean:.3f} for control verbs of equal base counts",
        f"{whole.n_matched} verbs; {whole.coverage:.0%} of the instruction verbs stand in enough heads",
    )
    return Evidence(
        test,
        (
            f"Heads took up pairs with instruction verbs more than with control verbs{BEYOND * (control is not None)}",
            f"Heads took up pairs with instruction verbs less than with control verbs{BEYOND * (control is not None)}",
            "It could not be shown that heads took up pairs with instruction verbs rather than with control verbs",
        ),
        control,
        effect=whole.difference,
        against_controls=control is not None,
        facts=facts,
        also=tuple(t for t in (whole.paper_test, whole.test, whole.head_test) if t is not None and t is not test),
    )


def _control_of(test: stats.Test, effect: float, kind: str, n: int) -> ControlNumbers:
    """Return the controls' own numbers from a test of effect - controls: its interval is that of the difference."""
    low, high = (None if limit is None else effect - limit for limit in (test.high, test.low))
    return ControlNumbers(kind, n, effect - test.estimate, low, high)


def _in_degrees(test: stats.Test) -> stats.Test:
    low, high = (None if limit is None else math.degrees(limit) for limit in (test.low, test.high))
    return replace(test, estimate=math.degrees(test.estimate), low=low, high=high)
