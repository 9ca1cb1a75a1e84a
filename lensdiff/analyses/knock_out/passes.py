"""The passes behind `knock_out`: a text with many cuts, as rows of few batches.

Rows of about one length are read together, padded on the right: no token sees what follows it. What two ways of
cutting have in common (the same keys, or none) is read once. A row that is cut from a later layer on begins there, in
the stream of the same text with nothing cut.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from lensdiff.analyses.knock_out.cuts import CUTS, Condition, cut_mask, cut_scores, drawn
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import ModelView, Point
from lensdiff.models.aligned_text import position_groups
from lensdiff.models.inside.forward import Write
from lensdiff.models.text import Encoded
from lensdiff.results import InputError

MAX_BYTES = 2**28  # of logits in float32 and of one layer's scores
MAX_TOKENS = 2**13  # read at a time
MOST_PADDING = 1.1  # times the length of the shortest row that is read with others
COPIES = 3  # of a layer's scores while softmax is taken


@dataclass(frozen=True)
class Text:
    """A prompt and its response as one model reads them.

    Attributes:
        ids: of all tokens; last: the position of the prompt's last one.
        instruction: positions of the instruction's tokens, token 0 included.
        others: positions of the prompt's other tokens, neither special nor token 0 nor a chat template's.
        seed: of what is drawn for it.
    """

    ids: tuple[int, ...]
    last: int
    instruction: tuple[int, ...]
    others: tuple[int, ...]
    seed: str

    @property
    def n_response(self) -> int:
        return len(self.ids) - self.last - 1

    @property
    def holds_first(self) -> bool:
        """Whether the instruction holds token 0, the sink, which is only cut in a row of its own."""
        return 0 in self.instruction


def text_of(view: ModelView, prompt: Prompt, encoded: Encoded, seed: int) -> Text:
    """Return a prompt and its response with the instruction's tokens.

    Raises:
        InputError: the prompt marks no instruction, or no token is the instruction's.
    """
    name = repr(prompt.id or prompt.stripped[:40])
    if not prompt.instruction:
        raise InputError(f"prompt {name} marks no instruction, expected a span of it")
    groups = position_groups(view, prompt, encoded)
    instruction = groups["instruction"]
    if not instruction:
        raise InputError(f"no token of prompt {name} is the instruction's, expected at least one")
    last = encoded.n_special + encoded.n_prompt - 1
    own = {*instruction, *groups["template"]}
    return Text(
        encoded.ids,
        last=last,
        instruction=instruction,
        others=tuple(i for i in range(encoded.n_special, last + 1) if i and i not in own),
        seed=f"{seed} {prompt.stripped}",
    )


@dataclass(frozen=True)
class Plan:
    """How texts are cut: cuts in windows, also with token 0 where a text's instruction holds it, beside draws."""

    cuts: Sequence[str] = CUTS
    windows: Sequence[tuple[int, int]] = ()
    first: bool = False
    draws: int = 0

    def conditions(self, text: Text) -> tuple[Condition, ...]:
        firsts = (False, True) if self.first and text.holds_first else (False,)
        return tuple(Condition(cut, *window, first) for cut in self.cuts for window in self.windows for first in firsts)


class Drops(NamedTuple):
    """Log-probabilities of a response's tokens, and by how much they fall; NaN where nothing could be drawn."""

    conditions: tuple[Condition, ...]
    log_prob: Float[Tensor, " out_pos"]
    drop: Float[Tensor, "condition out_pos"]
    random_drop: Float[Tensor, "condition draw out_pos"]


class Row(NamedTuple):
    """A text that is read with some keys cut; nothing is cut where there are no keys."""

    text: Text
    keys: tuple[int, ...] = ()
    cut: str = ""
    window_first: int = 0
    window_last: int = -1


def _row(text: Text, keys: tuple[int, ...], condition: Condition) -> Row:
    return Row(text, keys, *condition[:3]) if keys else Row(text)


def drops(view: ModelView, texts: Sequence[Text], plan: Plan, *, max_bytes: int = MAX_BYTES) -> list[Drops]:
    """Return what each text's response loses in every condition of the plan.

    Raises:
        InputError: attention scores of the model cannot be written.
    """
    layers = {layer for first, last in plan.windows for layer in range(first, last + 1)}
    view.forward.require(write=[Point("attn_scores", layer) for layer in sorted(layers)])
    starts = _starts(view, sorted({first for first, _ in plan.windows if first}))
    per_token = view.d_model * view.dtype.itemsize * len(starts)
    found: list[Drops] = []
    while len(found) < len(texts):
        some, size = [], 0
        for text in texts[len(found) :]:
            size += per_token * len(text.ids)
            if some and size > max_bytes:
                break
            some.append(text)
        found += _of_some(view, some, plan, starts, max_bytes)
    return found


def _starts(view: ModelView, layers: Sequence[int]) -> list[int]:
    """Return at which layers a pass may begin: none where the stream cannot be written."""
    try:
        view.forward.require(read=(points := [Point("resid_pre", layer) for layer in layers]), write=points)
    except InputError:
        return []
    return list(layers)


def _of_some(
    view: ModelView, texts: Sequence[Text], plan: Plan, starts: Sequence[int], max_bytes: int
) -> Iterator[Drops]:
    asked = [_rows(text, plan) for text in texts]
    reading = Reading(view, starts, max_bytes)
    # first what is read as it is: cut rows begin in its streams
    found = reading.log_probs([plain for plain, _, _ in asked])
    found |= reading.log_probs([row for _, own, draws in asked for row in chain(own, *draws) if row.keys])
    for text, (plain, own, draws) in zip(texts, asked, strict=True):
        before, nothing = found[plain], torch.full((plan.draws, text.n_response), torch.nan, dtype=torch.float64)
        lost = [before - found[row] for row in own]
        beside = [torch.stack([before - found[row] for row in rows]) if rows else nothing for rows in draws]
        yield Drops(plan.conditions(text), before, torch.stack(lost), torch.stack(beside))


def _rows(text: Text, plan: Plan) -> tuple[Row, list[Row], list[list[Row]]]:
    """Return what is read of a text: as it is, and by condition with the instruction cut and with each draw cut."""
    instruction = tuple(i for i in text.instruction if i)
    draws = drawn(text.others, len(instruction), draws=plan.draws, seed=text.seed)
    own, others = [], []
    for condition in plan.conditions(text):
        sink = (0,) if condition.first else ()
        own.append(_row(text, sink + instruction, condition))
        others.append([_row(text, sink + keys, condition) for keys in draws])
    return Row(text), own, others


class Reading:
    """Reads rows in one model; the streams of what was read with nothing cut are where later rows begin.

    Args:
        starts: layers that rows may begin at.
    """

    def __init__(self, view: ModelView, starts: Sequence[int] = (), max_bytes: int = MAX_BYTES):
        self.view, self.starts, self.max_bytes = view, starts, max_bytes
        self.streams: dict[tuple[Text, int], Float[Tensor, "pos d_model"]] = {}

    def log_probs(self, rows: Iterable[Row]) -> dict[Row, Float[Tensor, " out_pos"]]:
        """Return the log-probabilities of each row's response, in nats and float64; equal rows are read once."""
        found: dict[Row, Tensor] = {}
        waiting: list[Row] = []
        for row in dict.fromkeys(rows):
            if row.text.n_response:
                waiting.append(row)
            else:
                found[row] = torch.zeros(0, dtype=torch.float64)
        waiting.sort(key=lambda row: (self._start(row), len(row.text.ids), row.text.n_response))
        while waiting:
            some = waiting[: self._fitting(waiting)]
            found |= zip(some, self._read(some), strict=True)
            del waiting[: len(some)]
        return found

    def _start(self, row: Row) -> int:
        return row.window_first if (row.text, row.window_first) in self.streams else 0

    def _fitting(self, rows: Sequence[Row]) -> int:
        """Return how many of the first rows are read together: one at least."""
        scored, shortest = 0, len(rows[0].text.ids)
        for i, row in enumerate(rows):
            longest = len(row.text.ids)
            scored += row.text.n_response
            scores = COPIES * (i + 1) * self.view.n_heads * longest**2 * self.view.dtype.itemsize
            fits = 4 * scored * self.view.d_vocab + scores <= self.max_bytes and (i + 1) * longest <= MAX_TOKENS
            alike = longest <= MOST_PADDING * shortest and self._start(row) == self._start(rows[0])
            if i and not (fits and alike):
                return i
        return len(rows)

    @torch.no_grad()
    def _read(self, rows: Sequence[Row]) -> Sequence[Float[Tensor, " out_pos"]]:
        view, final = self.view, Point("final")
        longest = max(len(row.text.ids) for row in rows)
        padded = [(*row.text.ids, *(0,) * (longest - len(row.text.ids))) for row in rows]
        ids = torch.tensor(padded, device=view.device)
        kept = [Point("resid_pre", layer) for layer in self.starts] if not any(row.keys for row in rows) else []
        write = writes(rows, longest - 1, view.device)
        start = Point("resid_pre", layer) if (layer := self._start(rows[0])) else None
        if start is not None:
            streams = [self.streams[row.text, layer] for row in rows]
            stream = torch.stack([F.pad(one, (0, 0, 0, longest - 1 - len(one))) for one in streams])
            write[start] = lambda _: stream
        # the last token is only predicted, never read
        found = view.forward.run(ids[:, :-1], read=[final, *kept], write=write, start=start, until=final)
        for point in kept:
            for i, row in enumerate(rows):
                self.streams[row.text, point.layer or 0] = found[point][i, : len(row.text.ids) - 1]
        return _said(view, found[final], ids, rows)


def _said(
    view: ModelView, hidden: Float[Tensor, "row pos d_model"], ids: Int[Tensor, "row _"], rows: Sequence[Row]
) -> Sequence[Float[Tensor, " out_pos"]]:
    ends = [(i, row.text.last, row.text.n_response) for i, row in enumerate(rows)]
    chosen = torch.cat([hidden[i, last : last + n] for i, last, n in ends])
    said = torch.cat([ids[i, last + 1 : last + 1 + n] for i, last, n in ends])
    logits = view.forward.unembed(chosen[None])[0]
    log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
    return log_probs.gather(-1, said[:, None])[:, 0].double().cpu().split([n for _, _, n in ends])


def writes(rows: Sequence[Row], length: int, device: torch.device) -> dict[Point, Write]:
    """Return by layer what cuts each row's keys in its window, of rows padded on the right to a length."""
    if not any(row.keys for row in rows):
        return {}
    cut = torch.zeros(len(rows), length, length, dtype=torch.bool, device=device)
    for i, row in enumerate(rows):
        n = min(len(row.text.ids), length)
        keys = torch.zeros(n, dtype=torch.bool, device=device)
        keys[list(row.keys)] = True
        cut[i, :n, :n] = cut_mask(keys, row.text.last, row.cut)
    last = torch.tensor([row.text.last for row in rows], device=device)
    found: dict[Point, Write] = {}
    for layer in range(max(row.window_last for row in rows) + 1):
        inside = [bool(row.keys) and row.window_first <= layer <= row.window_last for row in rows]
        if any(inside):
            here = cut if all(inside) else cut & torch.tensor(inside, device=device)[:, None, None]
            found[Point("attn_scores", layer)] = lambda scores, here=here: cut_scores(scores, here, last)
    return found
