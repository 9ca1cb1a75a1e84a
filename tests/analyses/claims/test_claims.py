"""Verdict and words of the claims, on planted numbers: both directions, within, beyond, wrong side, too few, ruined."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lensdiff import stats
from lensdiff.analyses.claims.cause import Cause
from lensdiff.analyses.claims.evidence import heads_evidence, instruction_evidence, rotation_evidence
from lensdiff.analyses.claims.measure import Evidence, answer, claims
from lensdiff.analyses.claims.result import NAMES, Claims, Way
from lensdiff.analyses.claims.words import Made, Words
from lensdiff.analyses.instruction_use.result import InstructionUse
from lensdiff.analyses.value_rotation.measure import ValueRotation
from lensdiff.results import Control, ControlModel, InputError, Provenance
from tests.analyses.heads.results import VERBS, drawn, run, with_counts

ORIGIN = Provenance("claims", "a -> b")
WORDS = Words(
    "effect", "More than any control", "Less than any control", "More, but less so", "Less, but less so", " u"
)
KINDS = ("gradient-noise", "spectrum")


def around(centre: float, n: int = 59, width: float = 0.1) -> list[float]:
    """Effects of controls, evenly between centre - width and centre + width."""
    return np.linspace(centre - width, centre + width, n).tolist()


def planted(effect: float, *controls: list[float], **fields: Any) -> Evidence:
    kinds = dict(zip(KINDS, controls, strict=False))
    fields.setdefault("made", tuple(Made(kind, len(found), len(found)) for kind, found in kinds.items()))
    return Evidence(effect, fields.pop("words", WORDS), kinds, **fields)


def of(evidence: Evidence, other_p: float | None = None) -> Any:
    """The claim, alone in its family or beside a second one with `other_p`."""
    given: dict[Any, Any] = {"instruction": evidence}
    if other_p is not None:
        # controls of which the second claim's effect has the rank that gives this p
        n = 99
        extreme = round(other_p * (n + 1)) - 1
        far = [5.0] * extreme + around(0, n - extreme)
        given["heads"] = planted(3.0, far)
    return claims(ORIGIN, given).claims[0]


def envelope(effect: float, controls: dict[str, list[float]]) -> stats.Envelope | None:
    return stats.against_controls(effect, controls).envelope


BESIDE = "the 95 % bands of meaningless changes of the same size reach from"
NO_MORE = "No more than meaningless changes of the same size"
ALONE = "adjusted p = 0.017, Holm over 1 claim."
COUNTS = "59 gradient-noise, 59 spectrum"
CASES = {
    "random directions alone": (
        Evidence(1.0, WORDS, {"spectrum": around(0), "norm": around(0.2)}, (Made("spectrum", 59), Made("norm", 59))),
        "not shown",
        f"Not shown: effect +1 u; {BESIDE} -0.1 to 0.3 u (59 spectrum, 59 norm); beyond random directions lies any "
        "training, so controls of another kind are needed.",
    ),
    "a kind that could not be made": (
        planted(1.0, around(0), made=(Made("gradient-noise", 59, 59), Made("shuffled", 0))),
        "too few controls",
        "Too few controls to tell: effect +1 u; of the kind shuffled none could be made and read.",
    ),
    "a way has a unit of its own": (
        planted(1.0, around(0), ways=(Way("in logs", -2.0, "the measure", None, " nats"),)),
        "depends",
        f"It depends on the measure (in logs -2 nats): effect +1 u; {BESIDE} -0.1 to 0.1 u (59 gradient-noise).",
    ),
    "shown": (
        planted(1.0, around(0), around(0.2)),
        "shown",
        f"More than any control: effect +1 u; {BESIDE} -0.1 to 0.3 u ({COUNTS}); {ALONE}",
    ),
    "opposite": (
        planted(-1.0, around(0), around(-0.2)),
        "opposite",
        f"Less than any control: effect -1 u; {BESIDE} -0.3 to 0.1 u ({COUNTS}); {ALONE}",
    ),
    "within": (
        planted(0.05, around(0), around(0)),
        "within controls",
        f"{NO_MORE}: effect +0.05 u; {BESIDE} -0.1 to 0.1 u ({COUNTS}).",
    ),
    "between two kinds": (
        planted(0.5, around(0), around(1.0)),
        "within controls",
        f"{NO_MORE}: effect +0.5 u; {BESIDE} -0.1 to 1.1 u ({COUNTS}).",
    ),
    "beyond one kind alone": (
        planted(0.5, around(0), around(0.5)),
        "within controls",
        f"{NO_MORE}: effect +0.5 u; {BESIDE} -0.1 to 0.6 u ({COUNTS}).",
    ),
    "a rise that is less than the controls'": (
        planted(0.32, around(0.6), around(0.7)),
        "not shown",
        f"More, but less so: effect +0.32 u; {BESIDE} 0.5 to 0.8 u ({COUNTS}).",
    ),
    "a fall that is less than the controls'": (
        planted(-0.1, around(-2.0), around(-3.0)),
        "not shown",
        f"Less, but less so: effect -0.1 u; {BESIDE} -3.1 to -1.9 u ({COUNTS}).",
    ),
    "a share below the controls' shows nothing": (
        planted(0.05, around(0.3), around(0.4), signed=False),
        "not shown",
        f"Less than any control: effect +0.05 u; {BESIDE} 0.2 to 0.5 u ({COUNTS}).",
    ),
    "nor with few controls": (
        planted(0.05, around(0.3, 25), around(0.4, 25), signed=False),
        "not shown",
        f"Less than any control: effect +0.05 u; {BESIDE} 0.192 to 0.508 u (25 gradient-noise, 25 spectrum).",
    ),
    "a share above the controls'": (
        planted(0.9, around(0.3), around(0.4), signed=False),
        "shown",
        f"More than any control: effect +0.9 u; {BESIDE} 0.2 to 0.5 u ({COUNTS}); {ALONE}",
    ),
    "too few for a corrected p": (
        planted(1.0, around(0, 19), around(0, 30)),
        "beyond, too few",
        f"More than any control: effect +1 u; {BESIDE} -0.111 to 0.111 u (19 gradient-noise, 30 spectrum). "
        "The number of controls is too small for a corrected p (59 of each kind).",
    ),
    "too few, below": (
        planted(-1.0, around(0, 19), around(0, 30)),
        "beyond, too few",
        f"Less than any control: effect -1 u; {BESIDE} -0.111 to 0.111 u (19 gradient-noise, 30 spectrum). "
        "The number of controls is too small for a corrected p (59 of each kind).",
    ),
    "too few to tell": (
        planted(1.0, around(0, 18), around(0)),
        "too few controls",
        "Too few controls to tell: effect +1 u; 18 gradient-noise, 59 spectrum were made, a band needs 19 of each kind "
        "and a verdict 59.",
    ),
    "no controls": (
        planted(1.0),
        "too few controls",
        "Nothing to compare with: effect +1 u; no controls were made, so what meaningless changes of the same size "
        "give is unknown.",
    ),
    "nothing": (planted(0.0, around(0), around(0)), "not shown", "Nothing changed: effect is exactly 0."),
    "ruined": (
        planted(1.0, around(0), made=(Made("gradient-noise", 59, 59, 12), Made("spectrum", 59, 10, 6))),
        "not testable",
        "Not testable: a change of this size ruins the base, whatever it means (6 of 10 spectrum controls predict the "
        "base's own text worse than the tuned model and than a uniform guess); effect +1 u.",
    ),
    "depends on the text": (
        planted(
            1.0,
            around(0),
            around(0.2),
            ways=(Way("on the base text", 3.0, "the text"), Way("on the tuned text", -1.0, "the text")),
        ),
        "depends",
        f"It depends on the text (on the tuned text -1 u): effect +1 u; {BESIDE} -0.1 to 0.3 u ({COUNTS}).",
    ),
    "a way within its own controls does not agree": (
        planted(
            1.0,
            around(0),
            around(0.2),
            ways=(Way("deleted", 0.5, "the means", envelope(0.5, {"a": around(0.2), "b": around(0.9)})),),
        ),
        "depends",
        f"It depends on the means (deleted +0.5 u): effect +1 u; {BESIDE} -0.1 to 0.3 u ({COUNTS}).",
    ),
    "ways that agree": (
        planted(-1.0, around(0), around(0.2), ways=(Way("x", -3.0, "x", envelope(-3.0, {"a": around(-1.0, 19)})),)),
        "opposite",
        f"Less than any control: effect -1 u; {BESIDE} -0.1 to 0.3 u ({COUNTS}); {ALONE}",
    ),
    "permuted labels do as much": (
        planted(1.0, around(0), around(0.2), beside={"permuted labels": 0.2}),
        "not shown",
        f"Not shown: effect +1 u; {BESIDE} -0.1 to 0.3 u ({COUNTS}); but permuted labels do as much (p = 0.2).",
    ),
    "permuted labels hold back a small number of controls too": (
        planted(1.0, around(0, 19), around(0.2, 19), beside={"permuted labels": 0.2}),
        "not shown",
        f"Not shown: effect +1 u; {BESIDE} -0.111 to 0.311 u (19 gradient-noise, 19 spectrum); "
        "but permuted labels do as much (p = 0.2).",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_and_the_sentence_of_each_case(case):
    evidence, verdict, statement = CASES[case]
    claim = of(evidence)
    assert claim.verdict == verdict
    assert claim.statement == statement


def test_an_effect_below_the_controls_never_reads_more():
    for effect, *controls in [(0.32, around(0.6), around(0.7)), (0.1, around(0.3)), (-1.0, around(0))]:
        statement = of(planted(effect, *controls)).statement
        assert "More than" not in statement
        assert "Less than any" not in of(planted(-effect, *[[-x for x in c] for c in controls])).statement


def test_holm_corrects_over_the_claims_that_have_a_p():
    alone, beside = of(planted(1.0, around(0))), of(planted(1.0, around(0)), other_p=0.9)
    assert (alone.p, alone.p_adjusted) == (1 / 60, 1 / 60)
    assert (beside.p, beside.p_adjusted) == (1 / 60, 2 / 60)
    # one that has too few controls is no member of the family
    third = claims(ORIGIN, {"instruction": planted(1.0, around(0)), "heads": planted(1.0, around(0, 30))}).claims
    assert [claim.p_adjusted for claim in third] == [1 / 60, None, None]
    # two of 59 controls lie as far: p = 0.05 alone, beyond the band, and held back by the correction
    weak = planted(1.0, [*around(0, 57), 1.0, 2.0])
    assert of(weak).verdict == "shown"
    held = of(weak, other_p=0.5)
    assert (held.verdict, held.p_adjusted) == ("not shown", pytest.approx(0.1))
    assert held.statement.endswith("but adjusted p = 0.1, Holm over 2 claims.")


def test_three_claims_at_59_controls_can_all_be_shown():
    found = claims(ORIGIN, {name: planted(1.0, around(0), around(0)) for name in NAMES}).claims
    assert [claim.verdict for claim in found] == ["shown"] * 3
    assert [claim.p_adjusted for claim in found] == [3 / 60] * 3
    fewer = claims(ORIGIN, {name: planted(1.0, around(0, 58)) for name in NAMES}).claims
    assert [claim.verdict for claim in fewer] == ["beyond, too few"] * 3


def test_the_permuted_labels_p_enters_the_maximum():
    evidence = planted(1.0, around(0), beside={"permuted labels": 0.03})
    assert evidence.p == 0.03
    assert of(evidence).verdict == "shown"
    assert planted(1.0, around(0), beside={"permuted labels": 0.001}).p == 1 / 60


def test_not_testable_says_why():
    found = claims(ORIGIN, {"instruction": "too few prompts", "heads": "3 verbs"})
    assert [c.verdict for c in found.claims] == ["not testable"] * 3
    assert [c.name for c in found.claims] == list(NAMES)
    assert found.claims[0].statement == "Not testable on this pair: too few prompts."
    assert found.claims[2].statement == "Not testable on this pair: its analysis was not run."
    assert all(c.effect is None for c in found.claims)


def test_ruined_controls_have_no_place_in_the_family():
    ruined = planted(1.0, around(0), made=(Made("gradient-noise", 59, 59, 40),))
    found = claims(ORIGIN, {"instruction": ruined, "rotation": planted(1.0, around(0))}).claims
    assert (found[0].verdict, found[0].p) == ("not testable", None)
    assert found[2].p_adjusted == 1 / 60
    # a half is no majority
    half = planted(1.0, around(0), made=(Made("gradient-noise", 59, 10, 5),))
    assert of(half).verdict == "shown"


def test_tables_and_files(tmp_path):
    replication = {"instruction": ("own responses: 0.1",)}
    made = (Made("gradient-noise", 60, 60, 1), Made("spectrum", 59, 3, 0))
    evidence = {
        "instruction": planted(1.0, around(0), around(0.2), made=made, interval=(0.5, 1.5)),
        "heads": "no verbs",
    }
    found = claims(ORIGIN, evidence, replication)  # pyright: ignore[reportArgumentType] (names of claims)
    frame = found.to_df()
    assert frame["claim"].tolist() == list(NAMES)
    assert frame.loc[0, ["effect", "p", "n_controls"]].tolist() == [1.0, 1 / 60, 59]
    assert frame.loc[0, ["control_low", "control_high"]].tolist() == pytest.approx([-0.1, 0.3])
    beside: Any = found.controls()
    assert beside[["claim", "kind", "n", "made", "checked", "invalid"]].to_numpy().tolist() == [
        ["instruction", "gradient-noise", 59, 60, 60, 1],
        ["instruction", "spectrum", 59, 59, 3, 0],
    ]
    assert beside["median"].tolist() == pytest.approx([0.0, 0.2])
    assert beside["p"].tolist() == [1 / 60] * 2
    again = Claims.load(found.save(tmp_path / "claims.safetensors"))
    assert again.claims == found.claims
    assert again.claims[0].replication == ("own responses: 0.1",)
    assert found.top(1)["claim"].tolist() == ["instruction"]


# what each claim rests on


def use_of(
    tuned: float, controls: dict[str, list[float]], *, n: int = 6, texts=("base", "tuned"), noise: float = 0.0
) -> InstructionUse:
    """A pair whose use rises by `tuned` on every prompt and text, beside controls whose use rises by what is given."""
    rng = np.random.default_rng(0)
    effects = [0.0, tuned, *(effect for given in controls.values() for effect in given)]
    rows = [
        (f"p{p}", text, model, 1.0 + 0.1 * p + effect + noise * rng.normal() * (model == 1))
        for p in range(n)
        for text in texts
        for model, effect in enumerate(effects)
    ]
    prompt, text, model, use = zip(*rows, strict=True) if rows else ((), (), (), ())
    ones, beside = torch.ones(len(rows), dtype=torch.int64), named(controls)
    return InstructionUse(
        Provenance("instruction_use", "a -> b", controls=beside),
        "swap",
        ("base", "tuned", *(control.name for control in beside)),
        tuple(texts),
        prompt_id=prompt,
        text=text,
        model=torch.tensor(model, dtype=torch.int64),
        n_out=5 * ones,
        n_draws=ones,
        log_prob=torch.tensor(use, dtype=torch.float64) - 9.0,
        log_prob_without=torch.full((len(rows),), -9.0, dtype=torch.float64),
        n_left_out=2,
        failures={},
        level=0.95,
    )


def named(controls: dict[str, list[float]]) -> tuple[ControlModel, ...]:
    """A control c0, c1, ... for each of the effects."""
    kinds = [kind for kind, effects in controls.items() for _ in effects]
    return tuple(ControlModel(f"c{i}", Control(kind, i)) for i, kind in enumerate(kinds))


def validity_of(n: int, invalid: tuple[str, ...] = ()) -> pd.DataFrame:
    names = [f"c{i}" for i in range(n)]
    return pd.DataFrame({"control": names, "kind": "gradient-noise", "valid": [name not in invalid for name in names]})


def test_the_first_claim_is_the_use_beside_each_kind_of_control():
    found: Any = instruction_evidence(use_of(0.5, {"gradient-noise": around(0), "spectrum": around(0.1)}))
    assert found.effect == pytest.approx(0.5)
    assert found.controls["spectrum"] == pytest.approx(around(0.1))
    assert [way.name for way in found.ways] == ["on the base text", "on the tuned text"]
    claim = answer("instruction", found, found.p)
    assert claim.verdict == "shown"
    assert claim.statement.startswith(
        "The response depends more on its instruction than after meaningless changes of the same size: instruction "
        "use, tuned less base, +0.5 nats per token; "
    )
    assert "left out: 2 empty or one-token responses, 0 prompts that failed, 0 of which nothing was left" in claim.facts
    assert "mean use 1.25 nats per token in the base, 1.75 in the tuned model" in claim.facts


def test_a_use_stands_beside_each_kind_of_control():
    use = use_of(0.5, {"gradient-noise": around(0), "spectrum": around(0.1, 20)})
    found = use.beside("tuned")
    assert found is not None
    assert found.effect == pytest.approx(0.5)
    assert [(kind.kind, kind.n) for kind in found.kinds] == [("gradient-noise", 59), ("spectrum", 20)]
    assert found.kinds[1].median == pytest.approx(0.1)
    assert use_of(0.5, {}).beside() is None
    # a prompt's own numbers: 1 + 0.1 p in the base, 0.5 more in the tuned model
    assert use.uses("mean")["p2"][:2].tolist() == pytest.approx([1.2, 1.7])


def test_ruined_controls_are_left_out_and_counted():
    use = use_of(0.5, {"gradient-noise": [9.0, *around(0)]})
    found: Any = instruction_evidence(use, None, validity_of(60, ("c0",)))
    assert found.controls["gradient-noise"] == pytest.approx(around(0))
    assert found.made == (Made("gradient-noise", 60, 60, 1),)
    assert answer("instruction", found, found.p).verdict == "shown"
    kept: Any = instruction_evidence(use, None, validity_of(60))
    assert answer("instruction", kept, kept.p).verdict == "shown"  # one of 60 lies further: p = 2 / 61
    most = tuple(f"c{i}" for i in range(31))
    ruined: Any = instruction_evidence(use, None, validity_of(60, most))
    assert answer("instruction", ruined, ruined.p).verdict == "not testable"


def test_a_use_that_rises_on_one_text_and_falls_on_another_depends_on_the_text():
    up = use_of(3.0, {"gradient-noise": around(0)})
    on_tuned = torch.tensor([text == "tuned" for text in up.text]) & (up.model == 1)
    mixed = replace(up, log_prob=torch.where(on_tuned, up.log_prob - 4.0, up.log_prob))
    found: Any = instruction_evidence(mixed)
    assert found.effect == pytest.approx(1.0)
    claim = answer("instruction", found, found.p)
    assert claim.verdict == "depends"
    assert claim.statement.startswith("It depends on the text (on the tuned text -1 nats per token): ")


def test_deletion_that_disagrees_is_said():
    swap = use_of(1.0, {"gradient-noise": around(0)})
    found: Any = instruction_evidence(swap, use_of(-1.0, {"gradient-noise": around(0)}))
    claim = answer("instruction", found, found.p)
    assert claim.verdict == "depends"
    assert "how the instruction is taken away (with the instruction deleted -1 nats per token)" in claim.statement
    same: Any = instruction_evidence(swap, use_of(2.0, {"gradient-noise": around(0)}))
    assert answer("instruction", same, same.p).verdict == "shown"


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_prompts_are_not_testable(n):
    assert instruction_evidence(use_of(1.0, {"gradient-noise": around(0)}, n=n)) == (
        f"{n} prompt(s) have responses that can be read in both models, at least 2 are needed"
    )


def shares_of(share: float, controls: dict[str, list[float]], change: float = 0.05) -> ValueRotation:
    values = [value for found in controls.values() for value in found]
    return ValueRotation(
        Provenance("value_rotation", "a -> b", controls=named(controls)),
        (0, 1),
        torch.tensor([share - 0.01, share + 0.01], dtype=torch.float64),
        torch.full((2,), change, dtype=torch.float64),
        torch.zeros(2, dtype=torch.int64),
        False,
        torch.tensor([[value, value] for value in values], dtype=torch.float64).reshape(-1, 2),
        0.95,
    )


def test_the_third_claim_is_the_share_beside_each_kind_of_control():
    found: Any = rotation_evidence(shares_of(0.9, {"spectrum": around(0.2), "gradient-noise": around(0.4)}))
    assert found.effect == pytest.approx(0.9)
    claim = answer("rotation", found, found.p)
    assert claim.verdict == "shown"
    assert claim.statement.startswith(
        "The change of the feed-forward layers is more of a rotation than meaningless changes are: share of the "
        "values' change that is a rotation 0.9; "
    )
    between: Any = rotation_evidence(shares_of(0.3, {"spectrum": around(0.1), "gradient-noise": around(0.5)}))
    assert answer("rotation", between, between.p).verdict == "within controls"
    below: Any = rotation_evidence(shares_of(0.0, {"gradient-noise": around(0.2)}))
    assert below.p == 1.0
    assert answer("rotation", below, below.p).verdict == "not shown"  # a rescaling turns nothing
    assert rotation_evidence(shares_of(0.0, {}, change=0.0)) == ("the values of the feed-forward layers did not change")


def test_an_effect_of_a_control_that_is_no_number_is_an_error():
    shares = shares_of(0.9, {"spectrum": [*around(0.2), np.nan], "gradient-noise": around(0.4)})
    found: Any = rotation_evidence(shares)
    with pytest.raises(InputError, match=r"controls 'spectrum'\[59\] is nan, expected finite values"):
        answer("rotation", found)
    use = use_of(1.0, {"gradient-noise": [*around(0, 5), np.inf]})
    with pytest.raises(InputError, match=r"controls 'gradient-noise'\[5\] is inf, expected finite values"):
        instruction_evidence(use)
    with pytest.raises(InputError, match=r"tuned\[0\] is -inf, expected finite values"):
        instruction_evidence(use_of(-np.inf, {"gradient-noise": around(0)}))


def test_the_second_claim_needs_its_permuted_labels_and_its_controls():
    base = drawn(0)
    rose = base.copy()
    rose[..., : len(VERBS)] += 2  # every instruction verb gains two pairs in every head
    controls = [with_counts(drawn(seed)) for seed in range(1, 60)]
    shift = run(base, rose, controls=controls, layers_per_group=3)
    found: Any = heads_evidence(shift)
    test = shift.whole.label_test
    assert test is not None
    assert found.effect == pytest.approx(test.estimate)
    assert {kind: len(effects) for kind, effects in found.controls.items()} == {"given": 59}
    assert list(found.beside.values()) == [test.p]
    assert [way.name for way in found.ways] == ["mean change of log(1 + count)"]
    claim = answer("heads", found, found.p)
    assert claim.verdict == "shown"
    assert claim.statement.startswith(
        "Heads took up pairs with instruction verbs beyond verbs like them, and beyond meaningless changes: "
    )
    fell: Any = heads_evidence(run(rose, base, controls=[with_counts(drawn(s) + 1) for s in range(1, 60)]))
    assert fell.effect < 0
    all_rose: Any = heads_evidence(run(base, base + 2, controls=controls, layers_per_group=3))
    assert answer("heads", all_rose, all_rose.p).verdict != "shown"  # verbs like them rose as much
    unchanged: Any = heads_evidence(run(base, base, controls=controls))
    assert answer("heads", unchanged, unchanged.p).statement == (
        "Nothing changed: rise of instruction verbs beyond verbs like them is exactly 0."
    )


def test_a_cause_is_a_line_beside_the_claim_and_changes_no_verdict():
    evidence = {"instruction": planted(1.0, around(0), around(0.2)), "heads": planted(0.05, around(0))}
    plain = claims(ORIGIN, evidence)
    cause = Cause("cut, tuned less base", -0.5, " u", {"spectrum": around(0)}, (-0.7, -0.3), ("a fact",))
    found = claims(ORIGIN, evidence, causes={"instruction": cause})
    assert [c.verdict for c in found.claims] == [c.verdict for c in plain.claims]
    assert [c.p_adjusted for c in found.claims] == [c.p_adjusted for c in plain.claims]
    assert found.claims[0].cause is cause
    assert found.claims[1].cause is None
    row = found.to_df().iloc[0]
    assert row["cause"] == cause.statement
    assert (row["cause_effect"], row["cause_control_low"], row["cause_control_high"]) == pytest.approx(
        (-0.5, -0.1, 0.1), abs=1e-12
    )
    assert found.to_df()["cause"].tolist()[1:] == ["", ""]
    assert found.to_df()["cause_effect"].isna().tolist() == [False, True, True]


CAUSES = {
    "beyond": (
        Cause("cut", 0.5, " u", {"spectrum": around(0), "norm": around(0.1)}, (0.3, 0.7)),
        f"cut: +0.5 u (95 % over prompts 0.3 to 0.7); above every kind of control: {BESIDE} -0.1 to 0.2 u "
        "(59 spectrum, 59 norm)",
    ),
    "below": (
        Cause("cut", -0.5, " u", {"spectrum": around(0)}),
        f"cut: -0.5 u; below every kind of control: {BESIDE} -0.1 to 0.1 u (59 spectrum)",
    ),
    "within": (
        Cause("cut", 0.15, " u", {"spectrum": around(0), "norm": around(0.2)}),
        f"cut: +0.15 u; no more than meaningless changes of the same size: {BESIDE} -0.1 to 0.3 u "
        "(59 spectrum, 59 norm)",
    ),
    "too few": (
        Cause("cut", 0.5, " u", {"spectrum": around(0, 18)}),
        "cut: +0.5 u; beside 18 spectrum controls, too few to tell (19 of each kind are needed)",
    ),
    "none": (Cause("cut", 0.5, " u"), "cut: +0.5 u; no controls stand beside it"),
    "nothing": (Cause("cut", 0.0, " u"), "cut: 0 u; no controls stand beside it"),
    "undefined": (Cause("cut", float("nan"), " u", {"spectrum": around(0)}), "cut: undefined on this pair"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_a_cause_says_where_its_number_lies(name: str):
    cause, statement = CAUSES[name]
    assert cause.statement == statement
