"""What is patched and where: a component of a layer, at some positions.

head        z of one head, before W_O          attention   what attention adds to the stream
mlp         what the MLP adds to the stream     resid       the stream that enters a layer; of layer n_layers the
                                                            stream that leaves the last one
"""

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from lensdiff.inputs.spans import shorten
from lensdiff.models import Point, entering
from lensdiff.models.aligned_text import GROUPS, AlignedText
from lensdiff.models.inside.parts import Sizes
from lensdiff.models.layers import chosen_indices
from lensdiff.results import InputError

ComponentName = Literal["head", "attention", "mlp", "resid"]
COMPONENTS: tuple[str, ...] = get_args(ComponentName)
ALL = "all"
NO_HEAD = -1
At = str | tuple[int, ...]  # "all", a group of positions, or positions


class Site(NamedTuple):
    """A component of a layer, and the positions at which it is exchanged; `head` is `NO_HEAD` for all but a head."""

    component: str
    layer: int
    head: int
    at: At

    @property
    def where(self) -> str:
        """The positions in a word, or joined by commas."""
        return self.at if isinstance(self.at, str) else ",".join(map(str, self.at))

    def point(self, n_layers: int) -> Point:
        """Return the point of a pass that holds it."""
        if self.component == "resid":
            return entering(n_layers, self.layer)
        return Point({"head": "z", "attention": "attn_out", "mlp": "mlp_out"}[self.component], self.layer)  # type: ignore[arg-type]


def one_site(sizes: Sizes, component: str, layer: int, head: int | None, at: object) -> Site:
    """Return the site that is asked for by `patch`.

    Raises:
        InputError: there is no such component, layer or head, a head is given of something else or lacking, or the
            positions are no group and no list of positions.
    """
    _check_component(component)
    last = sizes.n_layers - (component != "resid")
    if type(layer) is not int or not 0 <= layer <= last:
        raise InputError(f"layer={layer!r} of component {component!r} given, expected 0 to {last}")
    if component != "head":
        if head is not None:
            raise InputError(f"head={head!r} given with component {component!r}, which has no heads")
        return Site(component, layer, NO_HEAD, one_at(at))
    if type(head) is not int or not 0 <= head < sizes.n_heads:
        raise InputError(f"head={head!r} given, expected 0 to {sizes.n_heads - 1}")
    return Site(component, layer, head, one_at(at))


def sweep_sites(
    sizes: Sizes, components: Sequence[str], layers: Sequence[int] | None, ats: Sequence[At]
) -> tuple[Site, ...]:
    """Return all sites of some components: layer by layer, heads first, group by group.

    Raises:
        InputError: there is no such component, one comes twice, or the layers are not there.
    """
    given = (components,) if isinstance(components, str) else tuple(components)
    if not given or len(set(given)) < len(given):
        raise InputError(f"components={list(given)} given, expected at least one of {', '.join(COMPONENTS)}, each once")
    for component in given:
        _check_component(component)
    most = sizes.n_layers + ("resid" in given)  # the stream has one place more than there are layers
    chosen = chosen_indices(layers, range(most), "layers")
    if layers is not None and sizes.n_layers in chosen and given != ("resid",):
        chosen_indices(layers, range(sizes.n_layers), "layers")
    found: list[Site] = []
    for layer in chosen:
        for component in COMPONENTS:
            if component not in given or (layer == sizes.n_layers and component != "resid"):
                continue
            heads = range(sizes.n_heads) if component == "head" else (NO_HEAD,)
            found += [Site(component, layer, head, at) for head in heads for at in ats]
    return tuple(found)


def one_at(at: object) -> At:
    """Return positions as a site has them.

    Raises:
        InputError: they are neither "all", a group, nor a list of distinct positions from 0.
    """
    if isinstance(at, str):
        if at not in (ALL, *GROUPS):
            raise InputError(f"at={at!r} is none of {', '.join((ALL, *GROUPS))}, nor a list of positions")
        return at
    if not isinstance(at, Sequence) or not at or not all(type(p) is int and p >= 0 for p in at):
        raise InputError(f"at={shorten(at)} given, expected one of {', '.join((ALL, *GROUPS))}, or positions from 0")
    if len(set(at)) < len(at):
        raise InputError(f"at={list(at)} holds a position twice")
    return tuple(sorted(at))


def several_ats(at: object) -> tuple[At, ...]:
    """Return positions, or a sequence of groups of them, as sites have them.

    Raises:
        InputError: as `one_at`, or a group comes twice.
    """
    if isinstance(at, str) or not isinstance(at, Sequence) or not at or all(type(p) is int for p in at):
        return (one_at(at),)
    found = tuple(one_at(one) for one in at)
    if len(set(found)) < len(found):
        raise InputError(f"at={shorten(list(at))} holds a group twice")
    return found


def positions_of(text: AlignedText, at: At) -> Int[Tensor, " some_pos"]:
    """Return the positions of a text that are meant; none where it marks no such group.

    Raises:
        InputError: a position lies behind the text that is read.
    """
    if isinstance(at, str):
        return torch.arange(text.n_read) if at == ALL else torch.tensor(text.groups[at], dtype=torch.int64)
    if at[-1] >= text.n_read:
        raise InputError(f"position {at[-1]} of prompt {_name(text)} given, the text that is read has {text.n_read}")
    return torch.tensor(at)


def places_of(text: AlignedText, sites: Sequence[Site]) -> dict[At, Int[Tensor, " some_pos"]]:
    """Return the positions that sites are patched at; a group that a text lacks is empty, but not the only one.

    Raises:
        InputError: the text has none of the groups, or a position lies behind it.
    """
    found = {at: positions_of(text, at) for at in dict.fromkeys(site.at for site in sites)}
    if not any(len(places) for places in found.values()):
        if set(found) & {"instruction", "context"}:
            marks = " or ".join(at for at in found if at in ("instruction", "context"))
            raise InputError(f"prompt {_name(text)} marks no {marks}, expected a span of it: nothing can be patched")
        raise InputError(f"prompt {_name(text)} and its response have no position of {', '.join(map(str, found))}")
    return found


def other_heads(sizes: Sizes, sites: Sequence[Site], seed: int) -> dict[Site, Site]:
    """Return for each head a random other one of its layer, at the same positions; none where it is alone there."""
    found = {}
    for site in sites:
        others = [head for head in range(sizes.n_heads) if head != site.head]
        if site.component == "head" and others:
            found[site] = site._replace(head=random.Random(f"{seed} {site.layer} {site.head}").choice(others))
    return found


def _check_component(component: object) -> None:
    if component not in COMPONENTS:
        raise InputError(f"component {component!r} is none of {', '.join(COMPONENTS)}")


def _name(text: AlignedText) -> str:
    return repr(text.prompt.id or text.prompt.stripped[:40])
