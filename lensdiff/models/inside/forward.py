"""The one door into a forward pass: read it, write into it, begin and stop it at points of one meaning in every model.

    run(tokens, read=[Point("resid_pre", 3)], write={Point("z", 2): function}, until=Point("final"))
    run(tokens, start=Point("resid_pre", 5), write={Point("resid_pre", 5): lambda _: stream}, read=[Point("final")])

`points` has the names, shapes and meanings. Hooks are put on the model and taken away again under its lock, so two
threads wait for each other. Values keep their graph: gradients and forward-mode tangents go through reading and
writing. Precision: float64 models are computed in float64 throughout.

Ignores: nothing; the user's own hooks on the model stay, and act.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lensdiff.models.inside.meaning import LogitMap, Meaning
from lensdiff.models.inside.norms import Unknown
from lensdiff.models.inside.parts import Sizes
from lensdiff.models.inside.points import POINTS, WHOLE, Point, Site
from lensdiff.models.inside.products import blocks_pay, few_rows
from lensdiff.models.inside.starting import Extra, passed_over, starts
from lensdiff.models.inside.wrappers import Wrapper
from lensdiff.models.inside.writing import why_not_written
from lensdiff.results import InputError

Write = Callable[[Tensor], Tensor]
STREAM = ("resid_pre", "attn_out", "mlp_out", "resid_post", "embed", "final")


class _Stop(Exception):
    """Ends a forward pass once what was asked for is there."""


class Forward:
    """Forward passes of one model; see the module.

    Attributes:
        name: the model's, for errors.
        cache_fault: why `decoding` does not use the key-value cache any more; None while its drafts hold.
        step_fault: why `plain.stepping` makes no steps of its own any more; None while drafts that are made so hold.
        branches: whether the passes of `plain.branching` are the model's own; None until that is measured.
    """

    def __init__(self, wrapper: Wrapper, name: Callable[[], str], meaning: Callable[[], Meaning]):
        self.wrapper, self._name, self._meaning = wrapper, name, meaning
        self.cache_fault: str | None = None
        self.step_fault: str | None = None
        self.branches: bool | None = None
        self._unwritable: dict[str, dict[int | None, str]] = {}
        self._running = False
        self._starts: list[Extra] | None = None
        self._starts_known = False

    @property
    def name(self) -> str:
        return self._name()

    @property
    def sizes(self) -> Sizes:
        return self.wrapper.sizes()

    def run(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        read: Sequence[Point] = (),
        write: Mapping[Point, Write] | None = None,
        start: Point | None = None,
        until: Point | None = None,
        mask: Int[Tensor, "batch pos"] | None = None,
    ) -> dict[Point, Tensor]:
        """Run a pass and return what stood at the points to read, by point, behind whatever was written there.

        Args:
            tokens: token ids.
            read: the points whose values are wanted.
            write: by point a function of the value there that returns what goes on in its place, of the same shape.
            start: "resid_pre" of the layer that the pass begins at, where the stream is written: the blocks before it
                are not computed. Where a model cannot be run like that (see `starting`) they are, for the same result.
            until: the pass ends behind this point; None for the whole pass.
            mask: 1 for a token and 0 for padding, on either side of a row; None where there is none.

        Raises:
            InputError: tokens or mask are not what is expected, a point does not exist, the model does not have it or
                has something else there, a write is not of the value's shape and dtype, it never fired, or it runs the
                model that it is written into.
        """
        write = dict(write or {})
        self._check_tokens(tokens, mask)
        if Point("logits") in write:
            raise InputError("logits are what a pass returns and cannot be written: write 'final'")
        self.require(read=[*read, *([] if until is None else [until])], write=write)
        skipped = (
            0 if start is None else self._start(start, [*read, *write, *([] if until is None else [until])], write)
        )
        caught = _Caught(tokens.shape[0], self.sizes.n_heads, set(read), write, until)
        device = self.sizes.device
        with self.wrapper.lock, self._begun(skipped), self._hooked(caught), self.wrapper.precision(), suppress(_Stop):
            logits = self.wrapper(tokens.to(device), None if mask is None else mask.to(device))
            if Point("logits") in caught.wanted:
                caught.at(Point("logits"), logits)
        if unread := [point for point in (*write, *read) if point not in caught.seen]:
            raise InputError(f"the pass of {self.name} did not come by {unread[0]}: nothing was read or written there")
        return {point: caught.values[point] for point in read}

    def require(self, *, read: Iterable[Point] = (), write: Iterable[Point] = ()) -> None:
        """Refuse points that cannot be read or written; what that takes is measured once, outside any transform.

        Raises:
            InputError: as `run`.
        """
        for point in (*read, *write):
            self._check(point)
        for point in write:
            self._check_written(point)

    def _check_tokens(self, tokens: Tensor, mask: Tensor | None) -> None:
        if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point() or not tokens.numel():
            given = f"{tokens.dtype} {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
            raise InputError(f"tokens are {given}, expected integers [batch, pos], at least one")
        sizes, (low, high) = self.sizes, (int(tokens.min()), int(tokens.max()))
        if low < 0 or high >= sizes.d_vocab:
            raise InputError(f"{self.name} has no token {low if low < 0 else high}, expected 0 to {sizes.d_vocab - 1}")
        if tokens.shape[1] > sizes.n_ctx:
            raise InputError(f"{tokens.shape[1]} tokens are given, the context of {self.name} holds {sizes.n_ctx}")
        if mask is not None and (mask.shape != tokens.shape or mask.is_floating_point()):
            given, wanted = f"{mask.dtype} {tuple(mask.shape)}", tuple(tokens.shape)
            raise InputError(f"the mask is {given}, expected 0 and 1 in the tokens' shape, {wanted}")

    def _check(self, point: Point) -> None:
        if not isinstance(point, Point) or not (point.layer is None or type(point.layer) is int):
            raise InputError(f"{point!r} is no point, expected for example Point('resid_pre', 3)")
        if point.name not in POINTS:
            raise InputError(f"{point.name!r} is no point of a forward pass, expected one of {', '.join(POINTS)}")
        n_layers = self.sizes.n_layers
        if (point.layer is None) != (point.name in WHOLE) or not 0 <= (point.layer or 0) < n_layers:
            wanted = "no layer" if point.name in WHOLE else f"a layer from 0 to {n_layers - 1}"
            raise InputError(f"{point.name!r} is given with layer {point.layer}, expected {wanted}")
        site = None if point.name in ("final", "logits") else self._meaning().points[point]
        if isinstance(site, Unknown):
            raise InputError(f"{point} of {self.name} cannot be read: {site.reason}")

    def _check_written(self, point: Point) -> None:
        if point.name not in self._unwritable:
            self._unwritable[point.name] = why_not_written(self.wrapper, self._meaning(), point.name)
        if why := self._unwritable[point.name].get(point.layer):
            raise InputError(f"{point} of {self.name} cannot be written: {why}")

    def _start(self, start: Point, points: Iterable[Point], write: Mapping[Point, Write]) -> int:
        """Return how many blocks a pass that begins at a point leaves out."""
        self._check(start)
        if start.name != "resid_pre" or start not in write:
            raise InputError(
                f"a pass is to begin at {start}, expected resid_pre of a layer at which something is written"
            )
        layer = start.layer or 0
        for point in points:
            if point.name == "embed" or (point.layer is not None and point.layer < layer):
                raise InputError(f"{point} lies before {start}, at which the pass is to begin")
        return layer

    def _begun(self, skipped: int) -> AbstractContextManager[None]:
        if skipped and not self._starts_known:
            self._starts, self._starts_known = starts(self.wrapper, self._meaning()), True
        return passed_over(self.wrapper, self._starts[:skipped]) if skipped and self._starts else nullcontext()

    @contextmanager
    def _hooked(self, caught: "_Caught") -> Iterator[None]:
        if self._running:  # by the same thread: another one waits for the lock
            raise InputError(f"a write into {self.name} runs {self.name} again: its hooks would fire in that pass too")
        needed = caught.needed()
        points = self._meaning().points
        with ExitStack() as stack:
            self._running = True
            stack.callback(setattr, self, "_running", False)
            for point in needed:
                if point.name == "final":
                    handle = self.wrapper.model.unembed.register_forward_pre_hook(caught.final)
                elif point.name == "logits":
                    continue
                else:
                    site = points[point]
                    assert isinstance(site, Site)
                    handle = site.module.register_forward_hook(caught.hook(point, site.scale))
                stack.callback(handle.remove)
            yield

    # what most analyses ask for
    def logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Return the logits without building a graph."""
        with torch.no_grad():
            return self.run(tokens, read=[Point("logits")], mask=mask)[Point("logits")]

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Return what the embedding module gives."""
        return self.run(tokens, read=[Point("embed")], until=Point("embed"))[Point("embed")]

    def final(
        self, tokens: Int[Tensor, "batch pos"], embedded: Float[Tensor, "batch pos d_model"] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """Return the unembedding's input (after the final norm and its gain), from the embeddings if they are given."""
        write: dict[Point, Write] = {} if embedded is None else {Point("embed"): lambda _: embedded}
        return self.run(tokens, read=[Point("final")], write=write, until=Point("final"))[Point("final")]

    def unembed(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Return the logits for the unembedding's input, bias, scale and soft cap included.

        Raises:
            InputError: the logits follow from the unembedding's output in a way that has not been understood.
        """
        found, bias, W_U = self._meaning().logits, self.wrapper.b_U, self.wrapper.W_U
        if not isinstance(found, LogitMap):
            raise InputError(f"the unembedding of {self.name} cannot be followed: {found.reason}")
        if blocks_pay(hidden, W_U):
            made = few_rows(hidden, W_U)
            return found(made if bias is None else made + bias)
        return found(functional.linear(hidden, W_U.T, bias))  # one pass over the logits for both

    def patterns(
        self, tokens: Int[Tensor, " pos"], layers: Sequence[int] | None = None, *, max_bytes: int = 2**28
    ) -> Iterator[Float[Tensor, "head_index query_pos key_pos"]]:
        """Yield the attention of each layer (all of them unless given): a head per query head, rows that sum to 1.

        A pass keeps as many layers as fit into `max_bytes`, at least one; what does not fit costs another pass.
        """
        sizes = self.sizes
        wanted = [Point("pattern", layer) for layer in (range(sizes.n_layers) if layers is None else layers)]
        for point in wanted:
            self._check(point)
        at_once = max(1, max_bytes // (sizes.n_heads * len(tokens) ** 2 * sizes.dtype.itemsize))
        for start in range(0, len(wanted), at_once):
            points = wanted[start : start + at_once]
            with torch.no_grad():
                found = self.run(tokens[None], read=points, until=max(points, key=lambda p: p.layer or 0))
            yield from (found[point][0] for point in points)

    def static_scores(
        self, tokens: Int[Tensor, "batch pos"], embedded: Float[Tensor, "batch pos d_model"], layers: Sequence[int]
    ) -> list[Float[Tensor, "batch head_index key_pos"]]:
        """Return the last query's scores before softmax (scaled, soft-capped, masked) in each layer, in order.

        Every position but the first brings its embedding, with whatever positions add to it, to every layer as it is;
        the first is computed as usual, since it sees only itself.
        """
        if not layers:
            return []
        first, last = Point("resid_pre", 0), max(layers)
        given: dict[Point, Write] = {Point("embed"): lambda _: embedded}
        entered = self.run(tokens, read=[first], write=given, until=first)[first]
        keep = {
            Point("resid_pre", layer): lambda value: torch.cat([value[:, :1], entered[:, 1:]], dim=1)
            for layer in range(1, last + 1)
        }
        wanted = [Point("attn_scores", layer) for layer in layers]
        found = self.run(tokens, read=wanted, write=given | keep, until=Point("attn_scores", last))
        return [found[point][:, :, -1] for point in wanted]

    def frozen(self) -> AbstractContextManager[None]:
        """Switch weight gradients off while the context lasts, so that a backward pass computes none."""
        return self.wrapper.frozen()

    def new_cache(self, batch: int) -> Any:
        """Return an empty key-value cache of the wrapper's kind."""
        return self.wrapper.new_cache(batch)

    def cached_logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch total_pos"], cache: Any
    ) -> Float[Tensor, "batch d_vocab"]:
        """Return the logits at the last position, reading what came before from `cache` and adding to it.

        Args:
            mask: 1 for a token, 0 for padding on the left, over all positions so far and `tokens`.
        """
        with self.wrapper.lock, self.wrapper.precision():
            return self.wrapper.cached_logits(tokens, mask, cache)


class _Caught:
    """What is caught and changed on the way; values are handed out and taken back in the shapes of `points`."""

    def __init__(self, batch: int, n_heads: int, wanted: set[Point], write: Mapping[Point, Write], until: Point | None):
        self.batch, self.n_heads = batch, n_heads
        self.wanted, self.write, self.until = wanted, write, until
        self.values: dict[Point, Tensor] = {}
        self.seen: set[Point] = set()
        self.streams: dict[int | None, Tensor] = {}  # resid_pre of the layers whose middle is asked for

    def needed(self) -> list[Point]:
        """Return the points to hook: those asked for, with the two that a middle is the sum of."""
        asked = self.wanted | set(self.write) | ({self.until} if self.until else set())
        parts = {Point(name, p.layer) for p in asked if p.name == "resid_mid" for name in ("resid_pre", "attn_out")}
        return sorted((asked | parts) - {p for p in asked if p.name == "resid_mid"})

    def _asked(self, point: Point) -> bool:
        return point in self.wanted or point in self.write or point == self.until

    def at(self, point: Point, value: Tensor) -> Tensor:
        """Take note of a value in its canonical shape, and return what goes on in its place."""
        if point in self.write:
            new = self.write[point](value)
            if not isinstance(new, Tensor) or new.shape != value.shape or new.dtype != value.dtype:
                given = f"{new.dtype} {tuple(new.shape)}" if isinstance(new, Tensor) else type(new).__name__
                raise InputError(f"the write at {point} returned {given}, expected {value.dtype} {tuple(value.shape)}")
            value = new
        self.seen.add(point)
        if point in self.wanted:
            self.values[point] = value
        return value

    def stop_behind(self, point: Point) -> None:
        if point == self.until:
            raise _Stop

    def hook(self, point: Point, scale: float) -> Callable[[nn.Module, tuple, Tensor], Tensor | None]:
        middle = Point("resid_mid", point.layer)

        def hooked(module: nn.Module, args: tuple, out: Tensor) -> Tensor | None:
            value = self._canonical(point, out if scale == 1.0 else out * scale)
            new = self.at(point, value) if self._asked(point) else value
            self.stop_behind(point)
            if point.name == "resid_pre" and self._asked(middle):
                self.streams[point.layer] = new
            if point.name == "attn_out" and self._asked(middle):
                before = self.streams[point.layer]
                through = self.at(middle, before + new)
                self.stop_behind(middle)
                new = through - before if middle in self.write else new
            return None if new is value else (new if scale == 1.0 else new / scale).reshape(out.shape)

        return hooked

    def final(self, module: nn.Module, args: tuple) -> tuple | None:
        point = Point("final")
        new = self.at(point, args[0])
        self.stop_behind(point)
        return None if new is args[0] else (new, *args[1:])

    def _canonical(self, point: Point, value: Tensor) -> Tensor:
        if point.name == "z" and value.ndim == 3:
            return rearrange(
                value, "batch pos (head_index d_head) -> batch pos head_index d_head", head_index=self.n_heads
            )
        if point.name in STREAM and value.ndim == 2:  # some models flatten batch and positions
            return rearrange(value, "(batch pos) d_model -> batch pos d_model", batch=self.batch)
        return value
