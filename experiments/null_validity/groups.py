"""Which pairs are made, and what stands beside them.

A group is a recipe with many seeds. Its first pair is the one that controls are made for (`pair.control`, by the
package itself); all others are rescaled to its norms, parameter by parameter, so that one set of controls serves the
whole group. Changes that leave the function as it is cannot be rescaled, and have nearly one size anyway.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from experiments.null_validity.changes import Change
from experiments.null_validity.measures import CLAIMS, Setting
from experiments.null_validity.nulls import FAST_NULLS, NULLS, Recipe, folded
from experiments.null_validity.plants import PLANTS

KINDS = ("distilled", "gradient-noise", "spectrum")
SAME_FUNCTION = ("neurons swapped", "basis changed")


@dataclass(frozen=True)
class Group:
    """One recipe.

    Attributes:
        name: unique.
        make: a pair's change, from the setting and a seed.
        n: pairs.
        claims: that are tested.
        planted: the claim that should be called, or None for a null.
        kinds: of controls.
        folded: whether the base is the one without gains.
        rescaled: whether pairs are brought to the first one's norms.
        reused: whether the distilled controls are null pairs too, each beside the others.
    """

    name: str
    make: Callable[[Setting, int], Change]
    n: int
    claims: tuple[str, ...] = CLAIMS
    planted: str | None = None
    kinds: tuple[str, ...] = KINDS
    folded: bool = False
    rescaled: bool = True
    reused: bool = False


SIZES = {
    "self-distilled, Adam": 28,
    "self-distilled, Adam, short and fast": 20,
    "self-distilled, Adam, long and slow": 16,
    "self-distilled, LoRA": 24,
    "random tokens, Adam": 20,
    "Gaussian noise": 20,
    "rescaled": 12,
    "neurons swapped": 12,
    "basis changed": 12,
}  # 164 pairs, and the distilled controls of two groups, each beside the others
REUSED = ("self-distilled, Adam", "self-distilled, LoRA")
FAST_SIZES = {"self-distilled, Adam": 12, "random tokens, Adam": 8}
FAST_PLANT = "values turned by 30 degrees at most, 20% of the change"


def fast_groups() -> list[Group]:
    """Return what stands for the whole in a minute: 20 null pairs and a planted one, the rotation alone."""
    make = PLANTS["rotation"][FAST_PLANT]
    plant = Group(FAST_PLANT, make, 1, ("rotation",), planted="rotation")
    nulls = null_groups(FAST_SIZES, ("rotation",), FAST_NULLS)
    return [*(replace(group, reused=False) for group in nulls), plant]


def null_groups(
    sizes: dict[str, int], claims: tuple[str, ...] = CLAIMS, recipes: dict[str, Recipe] = NULLS
) -> list[Group]:
    """Return the groups of null pairs, `sizes` of each recipe.

    Distilled controls of pairs that change some weights only, or another base, would have to be trained for them alone:
    where the function stays, the envelope is made of the two other kinds, which calls more, not less.
    """
    found = []
    for name, n in sizes.items():
        same = name in SAME_FUNCTION
        kinds = tuple(kind for kind in KINDS if not (same and kind == "distilled"))
        turned = name == "basis changed"
        options = {"kinds": kinds, "folded": turned, "rescaled": not same, "reused": name in REUSED}
        found.append(Group(name, partial(_null, recipes[name]), n, claims, **options))
    return found


def _null(recipe: Recipe, setting: Setting, seed: int) -> Change:
    return recipe(setting.model, setting.end, seed)


def planted_groups(n: int) -> list[Group]:
    """Return the groups of planted pairs, n of each size; only the claim that is planted is tested."""
    return [
        Group(name, make, n, (claim,), planted=claim) for claim, sizes in PLANTS.items() for name, make in sizes.items()
    ]


def base_of(group: Group, setting: Setting) -> Setting:
    """Return the setting whose model is the group's base."""
    if not group.folded:
        return setting
    found = Setting(**{name: getattr(setting, name) for name in setting.__dataclass_fields__})
    vars(found)["model"] = folded(setting.model)  # in the place of what is read from the folder
    return found
