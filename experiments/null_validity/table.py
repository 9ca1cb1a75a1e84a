"""From the effects of pairs and controls to p-values, rates and power, as data frames and as Markdown.

p          of a pair, per claim: among the controls of each kind, among all by their envelope, and (verbs) of the
           labels; the claim's own p is the envelope's, for verbs the larger one of that and the labels'
called     p of at most .05; above or below is where the effect lies of the medians of the controls
error      of a rate over null pairs, with groups as the unit, since the pairs of a group share their controls:
           sqrt( G / (G - 1) sum over groups of (called - n rate)^2 ) / N
bound      the one-sided 95 % lower bound of the rate (Clopper and Pearson), pairs taken for independent: where they
           are not, it lies nearer to the rate than it should, so that a bound of at most .05 is no accident of it
shown      called, above: the claim would be said to hold
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from experiments.null_validity.groups import KINDS, Group
from lensdiff import stats
from lensdiff.results import InputError
from lensdiff.views.csv_text import csv_text

ALPHA = 0.05
CLAIM = "the claim's own"  # what decides: the envelope, with the labels for verbs
LABELS = "labels"
COLUMNS = (*KINDS, LABELS, CLAIM)
TITLES = {"instruction use": "1. instruction use", "verbs": "2. verbs", "rotation": "3. rotation"}


@dataclass(frozen=True)
class Tables:
    """What the experiment finds.

    Attributes:
        p: a row per pair, claim and kind.
        rates: over all null pairs, a row per claim and kind.
        by_recipe: the same per recipe of null pairs; power: per planted size.
    """

    p: pd.DataFrame
    rates: pd.DataFrame
    by_recipe: pd.DataFrame
    power: pd.DataFrame


def tables(groups: Sequence[Group], effects: pd.DataFrame) -> Tables:
    """Return all tables of the effects of some groups."""
    of_group: dict[Any, Any] = dict(iter(effects.groupby("group", sort=False)))
    p: Any = pd.concat([p_values(group, of_group[group.name]) for group in groups], ignore_index=True)
    nulls, planted = p[~p.planted], p[p.planted]
    keys = ["claim", "kind"]
    rates = nulls.groupby(keys, sort=False).apply(_rate, include_groups=False).reset_index() if len(nulls) else nulls
    return Tables(p, rates, _per_group(nulls), _per_group(planted))


def p_values(group: Group, effects: pd.DataFrame) -> pd.DataFrame:
    """Return a row per pair of one group, claim and kind: group, planted, claim, kind, seed, effect, p, side."""
    records: list[dict[str, Any]] = effects.to_dict("records")  # pyright: ignore[reportAssignmentType]
    roles, rows = ("pair", "distilled") if group.reused else ("pair",), []
    for claim in group.claims:
        for pair in (record for record in records if record["role"] in roles):
            beside = [record for record in records if record is not pair]  # a control that is a pair is not its own
            controls = {kind: [x[claim] for x in beside if x["role"] == kind] for kind in group.kinds}
            effect = float(pair[claim])
            own = stats.against_controls(effect, controls).envelope
            assert own is not None  # a group has kinds
            found = {kind.kind: (kind.p, _side(effect, kind.median)) for kind in own.kinds}
            largest = own.p
            if claim == "verbs":
                found[LABELS] = float(pair["verbs, labels"]), _side(effect, 0.0)
                largest = None if largest is None else max(largest, float(pair["verbs, labels"]))
            if claim == "rotation" and largest is not None and own.direction == "below":
                largest = 1.0  # as the claim has it: a share of 0 needs no meaning
            found[CLAIM] = largest, own.direction or "between"
            name = group.name if pair["role"] == "pair" else f"{group.name}: the controls themselves"
            known = {"group": name, "planted": group.planted is not None, "claim": claim}
            for kind, (p, side) in found.items():
                rows.append(known | {"kind": kind, "seed": int(pair["seed"]), "effect": effect, "p": p, "side": side})
    return pd.DataFrame(rows)


def _side(effect: float, median: float) -> str:
    return "above" if effect > median else "below" if effect < median else "between"


def _rate(rows: pd.DataFrame) -> pd.Series:
    called = rows.p <= ALPHA + 1e-12
    shown = called & (rows.side == "above")
    found: dict[str, float] = {"n": len(rows), "called": int(called.sum()), "shown": int(shown.sum())}
    for name, those in (("called", called), ("shown", shown)):
        found[f"{name}_rate"], found[f"{name}_error"] = those.mean(), _error(those, rows.group)
        found[f"{name}_bound"] = lower_bound(int(those.sum()), len(rows))
    return pd.Series(found, dtype=object)


def lower_bound(k: int, n: int) -> float:
    """Return the one-sided 95 % lower bound of a rate of which k of n were seen."""
    return float(binomtest(k, n, ALPHA, alternative="greater").proportion_ci(0.95).low)


def _error(those: pd.Series, group: pd.Series) -> float:
    per_group = those.groupby(group, sort=False).agg(["sum", "count"])
    off, n_groups = per_group["sum"] - per_group["count"] * those.mean(), len(per_group)
    return float(np.sqrt(n_groups / (n_groups - 1) * (off**2).sum()) / len(those)) if n_groups > 1 else np.nan


def _per_group(p: pd.DataFrame) -> pd.DataFrame:
    """Return a row per group, claim and kind: n, effect (their mean), above, below (pairs that are called)."""
    rows = []
    groups: Any = p.groupby(["group", "claim", "kind"], sort=False) if len(p) else ()
    for (group, claim, kind), own in groups:
        called = own.p <= ALPHA + 1e-12
        sides = {side: int((called & (own.side == side)).sum()) for side in ("above", "below")}
        rows.append({"group": group, "claim": claim, "kind": kind, "n": len(own), "effect": own.effect.mean(), **sides})
    return pd.DataFrame(rows)


# as text
def markdown(found: Tables, *, controls: int) -> str:
    """Return the tables as a page."""
    made = f"{controls} controls of a kind beside null pairs"
    parts = [f"<!-- generated by `python -m experiments.null_validity.run`; {made} -->"]
    if len(found.rates):
        parts += ["## Pairs tuned on nothing: how often they are called", rates_table(found.rates)]
        for claim in found.by_recipe.claim.unique():
            parts += [f"### {TITLES[claim]}, by what was done", group_table(found.by_recipe, claim)]
    if len(found.power):
        parts += ["## Planted pairs: how often they are found"]
        for claim in found.power.claim.unique():
            parts += [f"### {TITLES[claim]}, by size", group_table(found.power, claim)]
    return "\n\n".join(parts) + "\n"


def rates_table(rates: pd.DataFrame) -> str:
    """Return a row per claim and kind; a rate whose lower bound is above .05 stands in bold."""
    head = "| claim | controls | pairs | called | share +- error | bound | shown | share +- error | bound |"
    lines = [head, "|---|---|---|---|---|---|---|---|---|"]
    for row in rates.to_dict("records"):
        cells = [TITLES[row["claim"]], row["kind"], str(row["n"])]
        for name in ("called", "shown"):
            share = f"{row[f'{name}_rate']:.3f} +- {row[f'{name}_error']:.3f}"
            bold = "**" if row[f"{name}_bound"] > ALPHA else ""
            cells += [str(row[name]), f"{bold}{share}{bold}", f"{row[f'{name}_bound']:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def group_table(frame: pd.DataFrame, claim: str) -> str:
    """Return a row per group: pairs, mean effect, and the pairs that each kind calls (above + below)."""
    own: Any = frame[frame.claim == claim]
    kinds = [kind for kind in COLUMNS if kind in set(own.kind)]
    lines = [f"| pairs | n | mean effect | {' | '.join(kinds)} |", f"|---|---|---|{'---|' * len(kinds)}"]
    for group, rows in own.groupby("group", sort=False):
        by_kind = {row["kind"]: row for row in rows.to_dict("records")}
        cells = [_called(by_kind.get(kind)) for kind in kinds]
        lines.append(f"| {group} | {rows.n.iloc[0]} | {rows.effect.iloc[0]:+.4f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _called(row: Mapping[Any, Any] | None) -> str:
    if row is None:
        return "not made"
    said = [f"{row[side]} {side}" for side in ("above", "below") if row[side]]
    return ", ".join(said) if said else "0"


def write_tables(found: Tables, out: Path, *, controls: int) -> None:
    """Write null_validity.md and a CSV file of every table."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "null_validity.md").write_text(markdown(found, controls=controls), encoding="utf-8")
    for name in ("rates", "by_recipe", "power"):
        (out / f"{name}.csv").write_text(csv_text(getattr(found, name)), encoding="utf-8", newline="")
    (out / "p.csv").write_text(csv_text(wide(found.p)), encoding="utf-8", newline="")


def wide(p: pd.DataFrame) -> pd.DataFrame:
    """Return a row per pair and claim: its effect, its side of all controls, and a column with the p of each kind."""
    keys = ["group", "planted", "claim", "seed", "effect"]
    columns = p.pivot(index=keys, columns="kind", values="p")
    sides = p[p.kind == CLAIM].set_index(keys).side
    found: Any = p[keys].drop_duplicates().join(sides, on=keys).join(columns, on=keys)
    return found[[*keys, "side", *(kind for kind in COLUMNS if kind in columns)]]


# the page that the documentation shows
BEGIN, END = "<!-- null validity: begin -->", "<!-- null validity: end -->"


def write_docs(found: Tables, path: Path) -> None:
    """Put the table of rates between the two marks of a page.

    Raises:
        InputError: the page does not have both.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise InputError(f"{path} has no place for the table, expected {BEGIN} and behind it {END}")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{rates_table(found.rates)}\n{END}{after}", encoding="utf-8")
