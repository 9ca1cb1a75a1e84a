"""What a run was asked for and does not have: in a line each, so that less than was asked for is never silent."""

from collections.abc import Iterable

from lensdiff.inputs.spans import shorten
from lensdiff.results import ResultStore
from lensdiff.steps.unit import SIDES, Unit

NAMED = 3  # units of which one reason is told by their names


def failed(store: ResultStore, steps: Iterable[str]) -> list[str]:
    """Return what failed in steps, or is lacking in their results, with the reason; the next run tries it again."""
    lines: list[str] = []
    for step in steps:
        state = store.step(step)
        by_reason: dict[str, list[str]] = {}
        for name, reason in state.failures.items():
            by_reason.setdefault(reason, []).append(name)
        for reason, names in by_reason.items():
            units = [Unit(u.model, u.prompt, u.layers) for u in (state.units[name] for name in names)]
            lines.append(f"without {_named(units)}: {reason}")
        lines += [f"{step} {reason}" for reason in state.lacking.values()]
    return list(dict.fromkeys(lines))


def not_possible(store: ResultStore, steps: Iterable[str]) -> list[str]:
    """Return the steps that this pair or these prompts do not allow, with the reason."""
    by_reason: dict[str, list[str]] = {}
    for step in steps:
        if store.step(step).state == "skipped":
            by_reason.setdefault(store.step(step).note, []).append(step)
    return [f"{', '.join(names)} not possible: {reason}" for reason, names in by_reason.items()]


def _named(units: list[Unit]) -> str:
    """Return units in words; a prompt that failed in both models by its name alone."""
    both = [unit.prompt for unit in units if unit.prompt and {Unit(side, unit.prompt) for side in SIDES} <= {*units}]
    names = dict.fromkeys(f"prompt {shorten(unit.prompt)}" if unit.prompt in both else str(unit) for unit in units)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return "; ".join(list(names)[:NAMED]) + more
