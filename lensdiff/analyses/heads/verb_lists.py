"""The verbs that `verb_shift` counts: instruction verbs, and control verbs behind them, in lower case."""

from collections.abc import Sequence

from lensdiff.inputs.verbs import general_verbs
from lensdiff.results import InputError


def listed_verbs(verbs: Sequence[str], control_verbs: Sequence[str] | None) -> tuple[str, ...]:
    """Return the verbs, then the control verbs (by default the shipped general verbs without `verbs`).

    Raises:
        InputError: there are none of either, or one is listed twice.
    """
    own = tuple(verb.lower() for verb in verbs)
    given = [verb for verb in general_verbs() if verb not in own] if control_verbs is None else control_verbs
    listed = (*own, *(verb.lower() for verb in given))
    if not (own and given):
        raise InputError(f"{len(own)} verbs and {len(given)} control verbs were given, expected some of both")
    if len(set(listed)) < len(listed):
        twice = next(verb for i, verb in enumerate(listed) if verb in listed[:i])
        raise InputError(f"the verb {twice!r} is listed twice, expected distinct verbs and control verbs")
    return listed


def missing_verbs(listed: Sequence[str], n_verbs: int, words: Sequence[str]) -> dict[str, object]:
    """Return what the provenance says of the verbs that are not among the heads' words, and so are never counted."""
    known = {word.lower() for word in words}
    return {
        "verbs_not_in_word_list": [verb for verb in listed[:n_verbs] if verb not in known],
        "control_verbs_not_in_word_list": sum(verb not in known for verb in listed[n_verbs:]),
    }
