"""How alike the residual streams of two models are, layer by layer, on the same forced text.

With x_p, y_p the streams of base and tuned model that enter a layer at position p (layer n_layers: what leaves the last
layer), d = y - x, and sums over all positions of a group in all prompts:

    cka               |sum (x - mean x)(y - mean y)^T|_F^2 / (|sum (x - mean x)(x - mean x)^T|_F |... y ...|_F)
                      in [0, 1]; 1 where the one is the other turned, shifted or stretched as a whole
    relative_change   mean of |d| / |x|, in [0, inf); 0 where nothing changed
    cosine            mean of cos(x, y), in [-1, 1]; 1 where no direction changed
    mean_shift_share  |mean d| / mean |d|, in [0, 1]; 1 where every position is shifted by the same vector

Equal streams give exactly 1, 0, 1 and 0. CKA sees no rotation and the cosine does: a model whose stream is turned, and
whose weights are turned with it, has CKA 1 and a low cosine. Groups are those of `aligned_text`: "instruction",
"context", "prompt" (its other tokens) and "response"; "all" has special tokens, too. A group that no prompt has is left
out.

- Position 0 is left out unless `first` is set: most models park attention there, at a norm of a hundred times the
  others', and CKA would be that of one position.
- CKA counts large directions most, and of n positions it is high by itself where n is small: streams that have nothing
  in common show up to d_model / (n + d_model). Read it beside the controls, which have the same positions.
- CKA does not exist (NaN) where the streams differ and one of them does not vary, as in a group of one position.
- A similarity says where streams part, not what the difference does: that takes an intervention (`patch`).

`relative_change` and `cosine` have t intervals over prompts (a prompt counts by its positions). Beside every number
stands the same number of each control model against the base.

Memory: streams of a few texts at a time, and three sums [d_model, d_model] in float64 for each layer and kind of
position, as many layers at a time as fit into 1 GB; what does not fit costs passes.

Reference: Kornblith et al., ICML 2019, arXiv 1905.00414 (linear CKA).
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from torch import Tensor

from lensdiff.analyses.layer_similarity.passes import Text, compared, groups_of, positions_of
from lensdiff.analyses.layer_similarity.result import LayerSimilarity
from lensdiff.defaults import RAW
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import Model, ModelView, view_of
from lensdiff.models.aligned_text import align_text
from lensdiff.models.asked import Asked, Given
from lensdiff.models.given import check_controls, check_pair
from lensdiff.models.layers import chosen_indices
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.templates import Template
from lensdiff.models.text import MAX_NEW_TOKENS
from lensdiff.results import InputError, Provenance
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import check_counts
from lensdiff.stats.samples import check_level

Texts = str | Response | Sequence[str | Response | None] | None


def layer_similarity(
    pair: ModelPair,
    prompts: Prompt | str | Sequence[Prompt | str],
    response: Texts = None,
    *,
    layers: Sequence[int] | None = None,
    controls: Iterable[Model] = (),
    first: bool = False,
    max_tokens: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    prepend_bos: bool | None = None,
    template: Template = RAW,
    level: float = 0.95,
    progress: bool | None = None,
) -> LayerSimilarity:
    """Return how alike the streams of both models are by layer and group of positions, beside controls.

    Args:
        pair: both models, of `load_pair`.
        prompts: one, or a list of them (one that fails is warned of and the rest go on).
        response: the text that both models read: a text, a `Response`, or None for the tuned model's own. With a list
            of prompts, a list.
        layers: from 0 to n_layers, which stands for what leaves the last layer; None for all.
        controls: `pair.control(kind, seed)`, or models with the base's tokenizer; at least 19 of a kind for a band.
        first: whether position 0 counts.
        max_tokens: of each response, the first ones; None for all.
        max_new_tokens: of the tuned model's own response.
        prepend_bos: None for each checkpoint's own habit.
        template: "raw", or "chat": as the tuned model's chat template writes the prompts, for both models.
        level: of the intervals over prompts and the controls' bands.
        progress: show a progress bar for a list; None shows it on a terminal.

    Raises:
        InputError: a layer that there is not, an option that is not positive, or a model whose stream cannot be read;
            of one prompt (or of all in a list): the models read the text as different tokens, or the response is empty;
            or no position is left to compare.
    """
    check_pair(pair, "layer_similarity")
    check_controls(controls, "layer_similarity")
    asked, view = Asked.of(prompts, response, template=template, model=pair), view_of(pair.base)
    n_layers, _ = sizes = view.n_layers, view.d_model
    del view  # a pair that keeps one model lets go of it before it loads the other
    check_counts(max_new_tokens=max_new_tokens, **({} if max_tokens is None else {"max_tokens": max_tokens}))
    check_level(level)
    chosen = tuple(sorted(chosen_indices(layers, range(n_layers + 1), "layers")))

    def text_of(prompt: Prompt, given: Given) -> Text:
        text = align_text(pair, prompt, given, max_new_tokens=max_new_tokens, prepend_bos=prepend_bos)
        return Text.of(text, max_tokens=max_tokens, first=first)

    texts = list(asked.each(text_of, "reading texts", progress).values())
    asked.settle()
    if not any(text.n_compared for text in texts):
        raise InputError("no position is left to compare: every text has position 0 alone, which first=True takes in")
    options = {"layers": list(chosen), "first": first, "max_tokens": max_tokens, "max_new_tokens": max_new_tokens}
    provenance = pair.provenance("layer_similarity", options | {"prepend_bos": prepend_bos, "level": level})
    base, tuned = (partial(_side, pair, side) for side in SIDES)
    arrays = compared(base, tuned, texts, SIDES, chosen)
    alone = asked.stamped(_result(provenance, texts, sizes, chosen, arrays, asked.failures, level))
    beside = [_of_control(base, view_of(control), alone, texts) for control in controls]
    return alone.with_controls(beside) if beside else alone


def control_similarity(
    pair: ModelPair,
    control: Model,
    prompts: Sequence[Prompt],
    responses: Sequence[str | Response],
    of_pair: LayerSimilarity,
) -> LayerSimilarity:
    """Return how alike the streams of the base and a control are, on the prompts and layers of the pair's result.

    Raises:
        InputError: as `layer_similarity`.
    """
    given = of_pair.provenance.options
    asked, texts = Asked.of(list(prompts), list(responses)), []
    for prompt, said in zip(asked.prompts, asked.responses, strict=True):
        text = align_text(pair, prompt, said, max_new_tokens=given["max_new_tokens"], prepend_bos=given["prepend_bos"])
        texts.append(Text.of(text, max_tokens=given["max_tokens"], first=given["first"]))
    return _of_control(partial(_side, pair, "base"), view_of(control), of_pair, texts)


def _side(pair: ModelPair, side: str) -> ModelView:
    return view_of(getattr(pair, side))


def _of_control(
    base: Callable[[], ModelView], control: ModelView, of_pair: LayerSimilarity, texts: Sequence[Text]
) -> LayerSimilarity:
    """Return what a control has, which reads what the base reads; a whole model that is made for it is let go."""
    if control.d_vocab != base().d_vocab:
        raise InputError(
            f"control {control.info.id} has d_vocab {control.d_vocab}, expected the base's {base().d_vocab}"
        )
    was_made = control.is_made
    arrays = compared(base, lambda: control, texts, ("base", "base"), of_pair.layers)
    provenance = control.provenance("layer_similarity", {})
    if not was_made:
        control.free()
    return _result(provenance, texts, (of_pair.n_layers, of_pair.d_model), of_pair.layers, arrays, {}, of_pair.level)


def _result(
    provenance: Provenance,
    texts: Sequence[Text],
    sizes: tuple[int, int],
    layers: tuple[int, ...],
    arrays: dict[str, Tensor],
    failures: dict[str, str],
    level: float,
) -> LayerSimilarity:
    names = groups_of(texts)
    positions = positions_of(texts, names)
    counts = positions.double()
    sums = {"relative_change": arrays["relative"], "cosine": arrays["cosine"]}  # [group prompt layer]
    return LayerSimilarity(
        provenance,
        tuple(text.prompt_id for text in texts),
        names,
        *sizes,
        layers,
        positions,
        cka=arrays["cka"][None],
        **{name: (found.sum(dim=1) / counts.sum(dim=0)[:, None])[None] for name, found in sums.items()},
        mean_shift_share=arrays["mean_shift_share"][None],
        **{f"prompt_{name}": found.transpose(0, 1) / counts[:, :, None] for name, found in sums.items()},
        failures=failures,
        level=level,
    )
