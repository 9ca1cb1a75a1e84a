"""Table 5: do the concepts of feed-forward layers move toward user-oriented tasks?"""

from collections.abc import Sequence

from experiments import annotated, common
from experiments.annotated import add_options
from lensdiff.analyses.annotate.shift import AnnotationShift

PUBLISHED = False  # the release's annotations are in a form of their own, which is not read


def main(argv: Sequence[str] | None = None) -> None:
    experiment = common.read(__file__, argv, published=PUBLISHED, more=add_options)
    found = experiment.run()
    title = "Not in the paper, no server needed: share of components more coherent than 95 % of random directions"
    experiment.table("coherence", title, annotated.coherence(found))
    shift = annotated.shift_of(experiment, found)
    if shift is not None:
        show(experiment, shift)


def show(experiment: common.Experiment, shift: AnnotationShift) -> None:
    """Print the paper's table (a test over seeds), then the same with components as the observations."""
    frame = shift.to_df()
    frame = frame[frame["kind"] != "level"]
    paper = ["side", "label", "base_mean", "base_std", "tuned_mean", "tuned_std", "paper_p"]
    experiment.table("table5", "Table 5: shares of explainable components (mean and std over seeds)", frame[paper])
    beside = ["side", "label", "difference", "low", "high", "p_adjusted", "equivalence_p_adjusted", "verdict"]
    experiment.table("components", "Not in the paper: components resampled, adjusted over labels", frame[beside])


if __name__ == "__main__":
    common.start(main)
