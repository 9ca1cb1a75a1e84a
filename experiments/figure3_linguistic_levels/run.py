"""Figure 3: do the linguistic levels of feed-forward concepts, by groups of layers, stay as they are?"""

from collections.abc import Sequence

from experiments import annotated, common
from experiments.annotated import add_options
from lensdiff.analyses.annotate.shift import AnnotationShift
from lensdiff.analyses.mlp.concepts import MLPConcepts
from lensdiff.cli.output import write

PUBLISHED = False  # the release's annotations are in a form of their own, which is not read


def main(argv: Sequence[str] | None = None) -> None:
    experiment = common.read(__file__, argv, published=PUBLISHED, more=add_options)
    found = experiment.run()
    concepts = found.of_model("concepts", MLPConcepts, "base")
    words = [(layer, ", ".join(concepts.words_of(layer, "value", 0, 8))) for layer in concepts.layers]
    frame = common.pd.DataFrame(words, columns=["layer", "words of the first component"])
    experiment.table("words", "What would be annotated (base model)", frame)
    shift = annotated.shift_of(experiment, found)
    if shift is not None:
        show(experiment, shift)


def show(experiment: common.Experiment, shift: AnnotationShift) -> None:
    """Print the levels by groups of layers with intervals, then whether each level did not change."""
    groups = shift.groups_df().query("kind == 'level'")
    shares = ["group", "label", "base_share", "base_low", "base_high", "tuned_share", "tuned_low", "tuned_high"]
    title = "Figure 3: shares of explainable components by group of layers, with intervals over components"
    experiment.table("figure3", title, groups[["side", *shares]])
    levels = shift.to_df().query("kind == 'level'")
    beside = ["side", "label", "difference", "low", "high", "p_adjusted", "equivalence_p_adjusted", "verdict"]
    title = f'Not in the paper: "did not change" within {shift.bound:g}, adjusted over labels'
    experiment.table("levels", title, levels[beside])
    write(f"picture: {shift.show().save(experiment.out / 'figure3.html')}")


if __name__ == "__main__":
    common.start(main)
