"""Rotation: did tuning turn the concepts of feed-forward layers further than a meaningless change of the same size?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments import common
from lensdiff.analyses.rotation import Rotation

PUBLISHED = False  # the release holds no weights
WORDS = 5  # lost and gained ones that are shown


def main(argv: Sequence[str] | None = None) -> None:
    experiment = common.read(__file__, argv, published=PUBLISHED)
    store = experiment.run()
    rotation = store.load_result("rotation", Rotation)
    experiment.table(
        "layers", "Mean principal angle in degrees, over ranks, with the controls' bands", layers(rotation)
    )
    columns = ["layer", "component", "tuned_component", "angle", "spectrum_high", "lost", "gained"]
    top: Any = degrees(rotation.top(5), ["angle", "spectrum_high"])[columns]
    top[["lost", "gained"]] = top[["lost", "gained"]].map(lambda text: ", ".join(text.split(", ")[:WORDS]))
    experiment.table("components", "Matched components that turned furthest beyond their band (degrees)", top)
    experiment.table("tests", "One test for the whole model", common.tests({experiment.pair: whole(rotation)}))
    experiment.answer(store, "rotation")


def layers(rotation: Rotation) -> pd.DataFrame:
    """Return a row per layer and side: the angle and the bands of both kinds of controls, each a mean over ranks."""
    angles = ["mean_angle", "spectrum_low", "spectrum_high", "norm_low", "norm_high"]
    frame: Any = rotation.to_df()
    means = frame.groupby(["layer", "side"], sort=False)[angles].mean().reset_index()
    return degrees(means, angles)


def degrees(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return the table with angles in degrees."""
    return frame.assign(**{name: np.degrees(frame[name]) for name in columns})


def whole(rotation: Rotation) -> dict:
    """Return the whole model's test, in radians as it was made."""
    return {"mean angle less that of spectrum-matched controls, radians": rotation.claim}


if __name__ == "__main__":
    common.start(main)
