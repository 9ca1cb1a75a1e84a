"""Table 3: do attention heads of the tuned model relate more words to instruction verbs, layer group by layer group?"""

from collections.abc import Sequence
from typing import Any

from experiments import common
from lensdiff.analyses.heads.verb_shift import VerbShift
from lensdiff.analyses.published.verbs import published_verb_shift
from lensdiff.cli.output import write


def main(argv: Sequence[str] | None = None) -> None:
    experiment = common.read(__file__, argv)
    if experiment.published:
        show(experiment, published_verb_shift(experiment.published))
        write("no control models: the release holds word pairs, no weights")
        return
    found = experiment.run()
    show(experiment, found.one("verb_shift", VerbShift))
    experiment.answer(found, "heads")


def show(experiment: common.Experiment, shift: VerbShift) -> None:
    """Print the paper's table, then how much of it can be tested, and the comparison with matched verbs."""
    frame: Any = shift.summary()
    paper = frame[["group", "n", "mean", "std", "control_n", "control_mean", "control_std", "paper_test_p"]]
    title = "Table 3: share of differing heads in which a verb's count rose (control: general verbs)"
    experiment.table("table3", title, paper.rename(columns={"paper_test_p": "p"}))
    beside = ["group", "coverage", "n_matched", "matched_mean", "matched_control_mean", "difference"]
    columns = [*beside, "band_low", "band_high", "test_p", "head_test_p"]
    title = "Not in the paper: coverage, control verbs of equal base counts, band of control models"
    experiment.table("matched", title, frame[columns])
    for group in (*shift.groups, shift.whole):
        if group.note:
            write(f"layers {group.group}: {group.note}")
    verbs = shift.top(shift.n_instruction).query("heads_up + heads_down > 0").head(10)
    experiment.table("verbs", "Instruction verbs that rose in most heads", verbs)


if __name__ == "__main__":
    common.start(main)
