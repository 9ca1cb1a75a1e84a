"""What the interventions say of the paper's claims, a line each (`cause`).

    instruction   attention to the instruction cut (`knock_out`): what a response loses, tuned - base, nats per token
    heads         the heads whose instruction verbs rose most, put into the base together (`patch`): what the tuned
                  model's response gains there, beside random sets of as many heads as well
    rotation      the change of the values W_out alone, put into the base (`dose`): what the tuned model's response
                  gains there

Each stands beside the same number of every control, kind by kind. Controls that are ruined models are left out, as the
claims do, but for the last: only a control's values are put into the base there, and what that does is the number.
"""

import pandas as pd

from lensdiff import stats
from lensdiff.analyses.claims.cause import Cause
from lensdiff.analyses.claims.evidence import valid_controls
from lensdiff.analyses.claims.words import MEANINGLESS
from lensdiff.analyses.dose.result import Dose
from lensdiff.analyses.knock_out.shift import KnockOutShift
from lensdiff.analyses.patch.set_result import RANDOM, SetPatch
from lensdiff.results import InputError
from lensdiff.results.numbers import n_of

PER_TOKEN = " nats per token"


def instruction_cause(found: KnockOutShift, validity: pd.DataFrame | None = None) -> Cause | None:
    """Return what cutting attention to the instruction says; None where no prompt could be read in every model."""
    try:
        effect, beside = found.effects()
    except InputError:
        return None
    test = found.difference()
    interval = None if test is None else test.interval
    means = [found.own(model=side) for side in (0, 1)]
    facts = [
        f"cause: loss with attention to the instruction cut {test.estimate:.3g} nats per token in the {name}"
        for name, test in zip(("base", "tuned model"), means, strict=True)
        if test is not None
    ]
    what = "with attention to the instruction cut a response loses, tuned less base"
    controls, made = valid_controls(found, beside, validity)
    return Cause(what, effect, PER_TOKEN, controls, interval, tuple(facts), level=found.level, made=made)


def heads_cause(found: SetPatch, validity: pd.DataFrame | None = None) -> Cause | None:
    """Return what exchanging the heads with the most new instruction verbs says; None where they rose in no head."""
    if not found.heads:
        return None
    effect, beside = found.effects()
    back, _ = found.effects("tuned")
    named = ", ".join(f"{layer}.{head}" for layer, head in found.heads)
    valid, counts = valid_controls(found, found.control_effects(), validity)
    kinds = {RANDOM: beside.get(RANDOM, [])} | valid
    what = (
        f"the {n_of(len(found.heads), 'head')} whose instruction verbs rose most, put into the base together, give the "
        "tuned model's response"
    )
    facts = (
        f"cause: heads {named}; the base's put into the tuned model: {back:+.3g} nats per token",
        "cause: effects of single heads do not add up to that of all together",
    )
    made = {kind: values for kind, values in kinds.items() if values}
    of = f"as many random heads, and of {MEANINGLESS}" if len(made) > 1 else "as many random heads"
    return Cause(what, effect, PER_TOKEN, made, facts=facts, of=of, made=counts)


def rotation_cause(found: Dose) -> Cause | None:
    """Return what the change of the values alone does; None where it was not asked for or no response could be read."""
    try:
        effect, beside = found.effects()
    except InputError:
        return None
    share = found.share()
    try:
        interval = found.effect().interval
    except stats.TooFew:  # of one prompt
        interval = None
    part = "undefined, the whole gain is about 0" if pd.isna(share) else f"{share:.0%}"
    facts = (f"cause: share of the whole change's gain {part}; shares of groups do not add up to 1",)
    what = "the change of the values W_out alone, put into the base, gives the tuned model's response"
    controls, made = valid_controls(found, beside, None)
    return Cause(what, effect, PER_TOKEN, controls, interval, facts, level=found.level, made=made)
