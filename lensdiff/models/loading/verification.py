"""Whether a wrapped model computes what its `transformers` model computes: logits, their two halves, greedy tokens.

What is expected is computed before the wrapper takes the storage over, without a cache and by `transformers` alone. In
half precision rounding hides much (a rotation that is a little off, until the text is long), so both are also made to
compute in float32 with the weights as they are, where they have to agree as float32 models do.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from lensdiff.models.decoding import ROUNDING, greedy
from lensdiff.models.inside.widened import HALF, in_float32
from lensdiff.models.loading.devices import whole_products
from lensdiff.models.loading.probe import TOLERANCE, probe_tokens
from lensdiff.models.view import ModelView
from lensdiff.results import InputError
from lensdiff.results.memory import is_lack_of_memory

START, CONTINUED = 8, 4  # tokens of the probe that are continued, and by how many


@dataclass(frozen=True)
class Expected:
    """What a `transformers` model makes of a probe: its logits, and the greedy tokens after the probe's beginning.

    Attributes:
        wide: the logits of the same weights in float32, where the model is in the half precision that is asked for.
    """

    probe: Int[Tensor, "1 pos"]
    logits: Float[Tensor, "1 pos d_vocab"]
    start: Int[Tensor, " _"]
    continuation: tuple[int, ...]
    wide: Float[Tensor, "1 pos d_vocab"] | None = None


def expect(source: PreTrainedModel, dtype: torch.dtype) -> Expected:
    """Return what `source` makes of a random probe; the continuation ends before a token that rounding could change.

    Raises:
        InputError: `transformers` itself cannot run the model, or it says nothing at all.
    """
    probe = probe_tokens(source)
    training = source.training
    source.eval()
    try:
        found = _run(source, probe, dtype)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        if is_lack_of_memory(error):
            raise
        what = str(error).strip().split("\n", 1)[0][:200]
        raise InputError(f"transformers cannot run its {type(source).__name__} in {dtype}: {what}") from error
    finally:
        source.train(training)
    if not found.logits.any():
        raise InputError(
            f"every logit of the {type(source).__name__} is zero: its weights compute nothing, expected a trained model"
        )
    return found


def _run(source: PreTrainedModel, probe: Tensor, dtype: torch.dtype) -> Expected:
    start = probe[0, : max(0, min(START, probe.shape[1] - CONTINUED))]
    ids, new, wide = start[None], [], None
    if source.dtype in HALF and source.dtype == dtype:
        with torch.no_grad(), _in_float32(source):
            wide = source(probe.to(source.device)).logits.float().cpu()
    widening = source.dtype in HALF and source.dtype != dtype
    with torch.no_grad(), _in_float32(source) if widening else nullcontext():
        logits = source(probe.to(source.device)).logits.float().cpu()
        while len(start) and len(new) < CONTINUED:
            last = source(ids.to(source.device)).logits[0, -1].float().cpu()
            best = last.topk(2)
            if not float(best.values[0] - best.values[1]) > 2 * ROUNDING[dtype] * float(last.abs().max()):
                break
            new.append(int(best.indices[0]))
            ids = torch.cat([ids, best.indices[None, :1]], dim=1)
    return Expected(probe, logits, start, tuple(new), wide)


@contextmanager
def _in_float32(source: PreTrainedModel) -> Iterator[None]:
    config = source.config.get_text_config()
    own = config._attn_implementation
    config._attn_implementation = "eager"  # a kernel may know half precision alone
    try:
        with in_float32(source), whole_products():
            yield
    finally:
        config._attn_implementation = own


def verify(view: ModelView, expected: Expected, *, folded: bool) -> None:
    """Refuse a wrapped model that does not do what was expected of it.

    Raises:
        InputError: logits, logits from the unembedding's input, or generated tokens differ.
    """
    _check_logits(view, view, expected.probe, expected.logits, folded=folded)
    if expected.wide is not None and not folded:  # what is folded is rounded again
        with whole_products():
            _check_logits(view, view.widened(), expected.probe, expected.wide, folded=False)
    if not expected.continuation:
        return
    (new,) = greedy(view, [expected.start], max_new_tokens=len(expected.continuation), stops=())
    if tuple(new.tolist()) != expected.continuation:
        raise _disagreement(
            view, f"greedy decoding goes on with tokens {new.tolist()}, expected {list(expected.continuation)}"
        )


def _check_logits(
    view: ModelView, computed: ModelView, probe: Tensor, wanted: Float[Tensor, "1 pos d_vocab"], *, folded: bool
) -> None:
    with torch.no_grad():
        tokens = probe.to(view.device)
        whole = computed.forward.logits(tokens).float().cpu()
        split = computed.forward.unembed(computed.forward.final(tokens)).float().cpu()
    if folded:  # centring the unembedding moves all logits of a token together
        whole, split, wanted = (x - x.mean(dim=-1, keepdim=True) for x in (whole, split, wanted))
    bound = TOLERANCE[computed.dtype] * (10.0 if folded else 1.0)
    size = float(wanted.abs().max())
    where = f"{computed.dtype}" if computed is view else f"{computed.dtype} with weights in {view.dtype}"
    for what, got in (("logits", whole), ("logits from the unembedding's input", split)):
        difference = float((got - wanted).abs().max()) / size
        if not difference <= bound:  # also true for NaN
            raise _disagreement(
                view, f"{what} differ by {difference:.1e} of the largest, at most {bound:.0e} is allowed in {where}"
            )


def _disagreement(view: ModelView, what: str) -> InputError:
    return InputError(
        f"{view.info.id} as a {type(view.model).__name__} disagrees with transformers: {what}; "
        "load_model(..., verify=False) loads it all the same"
    )
