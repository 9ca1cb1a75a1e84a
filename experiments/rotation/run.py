"""Rotation: is the change of the feed-forward layers more of a rotation than meaningless changes of the same size?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments import common
from lensdiff.analyses.mlp.rotation import Rotation
from lensdiff.analyses.value_rotation.measure import ValueRotation

PUBLISHED = False  # the release holds no weights
BANDS = ("gradient-noise_high", "spectrum_high")
WORDS = 5  # lost and gained ones that are shown


def main(argv: Sequence[str] | None = None) -> None:
    experiment = common.read(__file__, argv, published=PUBLISHED)
    found = experiment.run()
    rotation = found.one("rotation", Rotation)
    experiment.table(
        "layers", "Mean principal angle in degrees, over ranks, with the controls' bands", layers(rotation)
    )
    columns = ["layer", "component", "tuned_component", "angle", *BANDS, "lost", "gained"]
    top: Any = degrees(rotation.ranked(5), ["angle", *BANDS])[columns]
    top[["lost", "gained"]] = top[["lost", "gained"]].map(lambda text: ", ".join(text.split(", ")[:WORDS]))
    experiment.table("components", "Matched components that turned furthest beyond their band (degrees)", top)
    shares: Any = found.one("value_rotation", ValueRotation).to_df()
    experiment.table("shares", "Share of the change of the values that is a rotation, by layer", shares)
    experiment.answer(found, "rotation")


def layers(rotation: Rotation) -> pd.DataFrame:
    """Return a row per layer and side: the angle and the bands of both kinds of controls, each a mean over ranks."""
    angles = ["mean_angle", "gradient-noise_low", "gradient-noise_high", "spectrum_low", "spectrum_high"]
    frame: Any = rotation.to_df()
    means = frame.groupby(["layer", "side"], sort=False)[angles].mean().reset_index()
    return degrees(means, angles)


def degrees(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return the table with angles in degrees."""
    return frame.assign(**{name: np.degrees(frame[name]) for name in columns})


if __name__ == "__main__":
    common.start(main)
