"""The step that compares all weights of both models."""

from lensdiff.analyses.weights.weight_shift import weight_shift
from lensdiff.pipeline.step import NotPossible, Step
from lensdiff.pipeline.workspace import Workspace


def shift_weights(workspace: Workspace, unit: str) -> None:
    """Measure how far every weight moved."""
    if workspace.keep == "one":
        raise NotPossible("weights are compared with both models in memory, and one at a time is held")
    found = weight_shift(workspace.pair)
    workspace.store.save_result("weights", found)
    workspace.store.save_table("weights", found.to_df())


STEPS = (Step("weights", "weights", ("weights",), lambda workspace: ["pair"], shift_weights),)
