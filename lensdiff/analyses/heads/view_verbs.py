"""The verbs of heads: what each group of layers shows, and in how many heads every verb rose and fell."""

from dataclasses import dataclass
from typing import NamedTuple

from jinja2 import Template

from lensdiff import stats
from lensdiff.analyses.heads.verb_groups import GroupShift
from lensdiff.analyses.heads.verb_shift import VerbShift
from lensdiff.results.numbers import n_of
from lensdiff.views.show import register_view
from lensdiff.views.widget import Widget, templates


class VerbRow(NamedTuple):
    """An instruction verb: in how many heads its count rose and fell, up / (up + down), and its count in the base."""

    verb: str
    up: int
    down: int
    share: float
    base: int


@dataclass(frozen=True)
class GroupData:
    """One group of layers.

    Attributes:
        name: as "0-3", or "all".
        verbs: those that differ in any head, the one that rose most first.
        facts: what the group shows, as (name, text).
    """

    name: str
    verbs: list[VerbRow]
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class VerbsData:
    """What the script of the verbs is given: groups of layers, one of which is chosen, and paragraphs below."""

    groups: list[GroupData]
    notes: list[str]


@register_view
def show_verbs(result: VerbShift) -> Widget:
    """Return the table of instruction verbs, one group of layers at a time, under what the group shows."""
    n, names = result.n_instruction, [group.group for group in result.groups]
    counts = [x[:, :n] for x in (result.heads_up, result.heads_down, result.base_count)]
    groups = [_group(result, group, [x[i].tolist() for x in counts], names[i]) for i, group in enumerate(result.groups)]
    if len(groups) > 1:
        groups.append(_group(result, result.whole, [x.sum(dim=0).tolist() for x in counts], "all"))
    options = result.provenance.options
    missing = options.get("verbs_not_in_word_list", [])
    notes = [
        "A bar is a number of heads: left, heads in which the verb's count fell; right, in which it rose. Share: rose "
        f"/ (rose + fell), 0.5 is no drift. {n_of(len(result.verbs) - n, 'control verb')}.",
    ]
    if missing:
        notes.append(f"Not in the word list, so never counted: {', '.join(missing)}.")
    if (beside := result.beside()) is not None:
        notes.insert(0, f"Whole model, rise of instruction verbs beyond verbs like them (mean sign): {beside}.")
    facts: Template = templates.from_string(
        "{% for g in groups %}<h3>{{ g.name }}</h3><dl>{% for name, text in g.facts %}<dt>{{ name }}</dt>"
        "<dd>{{ text }}</dd>{% endfor %}</dl>{% endfor %}"
    )
    title = f"Verbs of heads: {result.provenance.model}"
    return Widget("verbs", VerbsData(groups, notes), title, height=820, fallback=facts.render(groups=groups))


def _group(result: VerbShift, group: GroupShift, counts: list[list[int]], name: str) -> GroupData:
    up, down, base = counts
    rows = [
        VerbRow(verb, u, d, u / (u + d), b)
        for verb, u, d, b in zip(result.verbs[: result.n_instruction], up, down, base, strict=True)
        if u + d
    ]
    rows.sort(key=lambda row: (row.down - row.up, row.verb))
    return GroupData(name, rows, facts(group, n_controls=len(result.provenance.controls)))


def facts(group: GroupShift, *, n_controls: int) -> list[tuple[str, str]]:
    """Return what one group of layers shows, as (name, text)."""
    found = [
        ("Instruction verbs", _share(group.mean, group.std, group.n)),
        ("Control verbs", _share(group.control_mean, group.control_std, group.control_n)),
        ("The paper's test", _test(group.paper_test)),
        (
            "Coverage",
            f"{group.coverage:.0%} of the instruction verbs differ in enough heads; {group.n_matched} matched",
        ),
    ]
    found += [
        (
            "Labels of verbs permuted, mean sign of the change over all heads",
            _labels(group.label_test, group.label_note),
        ),
        ("Labels of verbs permuted, mean change of log(1 + count)", _labels(group.log_label_test, group.label_note)),
    ]
    if group.difference is None:
        return [*found, ("Verdict", group.note)]
    band = f"too few of {n_of(n_controls, 'control model')} are testable" if n_controls else "no control models"
    if group.band_low is not None and group.band_high is not None:
        inside = group.band_low <= group.difference <= group.band_high
        verdict = "within it: no more than a meaningless change does" if inside else "outside it"
        band = f"{group.band_low:+.3f} to {group.band_high:+.3f}; the difference lies {verdict}"
    return [
        *found,
        (
            "Matched on base counts",
            f"{group.matched_mean:.3f} against {group.matched_control_mean:.3f}: difference {group.difference:+.3f}",
        ),
        ("Paired test over verbs", _test(group.test)),
        ("Sign flips over heads", _test(group.head_test)),
        ("Control models' difference", band),
    ]


def _share(mean: float | None, std: float | None, n: int) -> str:
    return (
        "none differs in any head" if mean is None else f"rose in {mean:.1%} ± {std:.1%} of differing heads (n = {n})"
    )


def _labels(test: stats.Test | None, note: str) -> str:
    return note or "too few verbs" if test is None else "; ".join(filter(None, [str(test), note]))


def _test(test: stats.Test | None) -> str:
    return "too few verbs" if test is None else str(test)
