"""Lost in the middle: is importance U-shaped over the prompt, and is the U milder after tuning?"""

from collections.abc import Sequence

from experiments import common
from lensdiff.analyses.position.measure import Map, PositionProfile, position_profile
from lensdiff.cli.output import write
from lensdiff.steps.unit import split_control


def main(argv: Sequence[str] | None = None) -> None:
    experiment = common.read(__file__, argv)
    if experiment.published:
        maps = experiment.published.attributions
        show(experiment, list(maps["base"].values()), list(maps["tuned"].values()))
        write("no control models: the release holds attributions, no weights")
        return
    found = experiment.run()
    base, tuned = (common.attributions(found, side) for side in ("base", "tuned"))
    profile = show(experiment, base, tuned)
    controls = dict.fromkeys(unit.control for unit in found.units("attribution") if unit.control)
    effects = [u_shift(position_profile(base, common.attributions(found, control))) for control in controls]
    kinds = [split_control(control)[0] for control in controls]
    title = "Not in the paper: change of U beside that of meaningless changes"
    experiment.table("controls", title, common.controls(u_shift(profile), effects, kinds))


def u_shift(profile: PositionProfile) -> float:
    """Return by how much U rose."""
    return profile.shapes["U"].difference.estimate


def show(experiment: common.Experiment, base: Sequence[Map], tuned: Sequence[Map]) -> PositionProfile:
    """Print the profiles with their intervals, the tests of the U shape, and those at equal response length."""
    found = position_profile(base, tuned)
    columns = ["start", "end", "base", "tuned", "difference", "low", "high", "p_adjusted"]
    experiment.table("profile", "Importance density by part of the prompt", found.to_df()[columns])
    experiment.table("shape", "U = ends - middle; a U shape needs both ends above the middle", found.summary())
    if found.left_out:
        write(f"left out, no importance in one of the models: {', '.join(found.left_out)}")
    equal = position_profile(base, tuned, equal_length=True)
    title = "Not in the paper: the same with both responses of a prompt cut to one length"
    experiment.table("shape_equal_length", title, equal.summary())
    found.save(experiment.out / "position.safetensors")
    write(f"picture: {found.show().save(experiment.out / 'position.html')}")
    return found


if __name__ == "__main__":
    common.start(main)
