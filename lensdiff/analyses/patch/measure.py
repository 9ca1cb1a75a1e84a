"""Patching across the models: one model's activation in the other, and how far that moves a forced response.

    effect    metric of U with V's activation at component c and positions P - metric of U left alone
    into      "base": U is the base, V the tuned model (does it bring the behaviour?); "tuned": the reverse (does the
              behaviour need it?)
    sign      of a log-probability, positive: the response becomes likelier
    share     effect / total, total = metric of V - metric of U; NaN where that is about 0 (`result`)

Both models read the same forced text, by default the tuned model's own greedy response; position p of the one is
position p of the other. Components are those of `sites`, metrics those of `metrics`.

- Effects of single parts do not add up to the whole: parts feed one another, and several may carry the same thing.
- A model's own activation changes nothing: where both models have the same values, the effect is exactly 0.
- Beside each effect: the same with a control model's activation in place of the tuned model's (into the base alone, a
  control is a change of the base), and that of a random other head of the layer.
- `method="estimate"`: gradient times difference at every row, one backward pass a direction, which is the effect where
  the metric is linear in what is patched. Rows are ranked by it, and the first `rerun` of each direction are run.

Cost: of each model one pass that is read; then a pass for each row from its layer on, rows of one layer together, the
unembedding only where the response is predicted. Memory: what is read, [layer, pos, d_model] about four times, and
`max_bytes` for a batch.

Reference: Prakash et al., ICLR 2024 (cross-model activation patching), arXiv 2402.14811; Nanda, Attribution Patching,
2023 (the estimate); what is compared with what is ours.
"""

from collections.abc import Iterable, Sequence

import torch

from lensdiff.analyses.patch.defaults import COMPONENTS, LEAST_TOTAL, MAX_BYTES, METRIC, RERUN
from lensdiff.analyses.patch.metrics import Metric
from lensdiff.analyses.patch.result import ControlPatch, Patched
from lensdiff.analyses.patch.rows import sites_of_rows
from lensdiff.analyses.patch.runs import Run
from lensdiff.analyses.patch.sites import Site, one_site, several_ats, sweep_sites
from lensdiff.defaults import RAW
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import Model, view_of
from lensdiff.models.asked import Asked
from lensdiff.models.given import check_controls, check_pair
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.templates import Template
from lensdiff.models.text import MAX_NEW_TOKENS
from lensdiff.results import InputError
from lensdiff.results.diff import SIDES

METHODS = ("exact", "estimate")
Texts = str | Response | Sequence[str | Response | None] | None


def patch(
    pair: ModelPair,
    prompt: Prompt | str | Sequence[Prompt | str],
    response: Texts = None,
    *,
    component: str,
    layer: int,
    head: int | None = None,
    at: str | Sequence[int] = "all",
    into: str = "base",
    metric: Metric = METRIC,
    controls: Iterable[Model] = (),
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    prepend_bos: bool | None = None,
    template: Template = RAW,
    least_total: float = LEAST_TOTAL,
    level: float = 0.95,
    progress: bool | None = None,
) -> Patched:
    """Return how far one component of one model moves a response when it is put into the other.

    Args:
        pair: both models, of `load_pair`.
        prompt: a prompt, or a list of them (one that fails is warned of and the rest go on).
        response: the text that both models read: a text, a `Response`, or None for the tuned model's own. With a list
            of prompts, a list.
        component: "head" (z), "attention" (attn_out), "mlp" (mlp_out) or "resid" (resid_pre; of layer n_layers the
            final resid_post).
        layer, head: counted from 0; a head is given of "head" alone.
        at: "all", a group of positions ("instruction", "context", "template" for what a chat template wrote, "prompt"
            for the prompt's other tokens, "response") or positions of the text that is read, special tokens in front
            counted.
        into: the model that is patched, "base" or "tuned"; the other one gives.
        metric: "log_prob", `contrast(a, b)`, or another target (see `metrics`).
        controls, seed, max_new_tokens, prepend_bos, template, least_total, level, progress: as `patch_sweep`.

    Raises:
        InputError: as `patch_sweep`, or there is no such head.
    """
    check_pair(pair, "patch")
    check_controls(controls, "patch")
    asked = Asked.of(prompt, response, template=template, model=pair)
    run = Run(pair, asked, (into,), metric, seed, max_new_tokens, prepend_bos)
    sites = (one_site(run.sizes, component, layer, head, at),)
    return run.result("patch", sites, controls, progress, least_total=least_total, level=level)


def patch_sweep(
    pair: ModelPair,
    prompt: Prompt | str | Sequence[Prompt | str],
    response: Texts = None,
    *,
    components: Sequence[str] = COMPONENTS,
    layers: Sequence[int] | None = None,
    at: str | Sequence[int] | Sequence[str] = "all",
    into: str | Sequence[str] = SIDES,
    controls: Iterable[Model] = (),
    rows: object = None,
    metric: Metric = METRIC,
    method: str = "exact",
    rerun: int = RERUN,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    prepend_bos: bool | None = None,
    template: Template = RAW,
    max_bytes: int = MAX_BYTES,
    least_total: float = LEAST_TOTAL,
    level: float = 0.95,
    progress: bool | None = None,
) -> Patched:
    """Return the same for every head and MLP (or other components), each alone, in both directions.

    Args:
        pair: both models, of `load_pair`.
        prompt, response, metric: as `patch`.
        components: which ones; layers: of which, by default all (of "resid" n_layers too).
        at: as `patch`, or several groups: a row for each, missing where a prompt has no such group.
        into: one model, or both.
        controls: `pair.control(kind, seed)`, or models with the base's tokenizer, put into the base; at least 19 of a
            kind for a band.
        rows: a row, or rows, of `attention_shift`, `pair_overlap`, `verb_shift(...).heads()`, `rotation`,
            `weight_shift` or of this: the heads and MLPs that they name are patched, and nothing else (so without
            `components` and `layers`).
        method: "exact", or "estimate": ranked by gradients, and the first `rerun` rows of each direction run exactly.
        rerun: rows of each direction that are run after an estimate.
        seed: of the other heads.
        max_new_tokens: of the tuned model's own response.
        prepend_bos: None for each checkpoint's own habit.
        template: "raw", or "chat": as the chat template of the tuned model writes the prompts.
        max_bytes: of activations and logits that a batch of patched passes may hold.
        least_total: totals up to here are about 0 and have no shares.
        level: of the controls' bands and the intervals over prompts.
        progress: show a progress bar for a list; None shows it on a terminal.

    Raises:
        InputError: there is no such component, layer, direction, method or metric, controls without the base, a row
            that names neither head nor MLP, an option that is not positive; of one prompt (or of all in a list): it
            marks no such group, a position lies behind the text, the models read the text as different tokens, the
            response is empty, or the metric is not a number for each response token.
    """
    check_pair(pair, "patch_sweep")
    check_controls(controls, "patch_sweep")
    both = (into,) if isinstance(into, str) else tuple(into)
    asked = Asked.of(prompt, response, template=template, model=pair)
    run = Run(pair, asked, both, metric, seed, max_new_tokens, prepend_bos, max_bytes)
    if method not in METHODS:
        raise InputError(f"method={method!r} is none of {', '.join(METHODS)}")
    if rerun < 1 or max_bytes < 1:
        raise InputError(f"rerun={rerun}, max_bytes={max_bytes} given, expected positive numbers")
    ats = several_ats(at)
    if rows is None:
        sites = sweep_sites(run.sizes, components, layers, ats)
    else:
        if layers is not None or tuple(components) != COMPONENTS:
            raise InputError("rows are given with layers or components: rows name their heads and MLPs themselves")
        sites = sites_of_rows(run.sizes, rows, ats)
    ranked = rerun if method == "estimate" else None
    return run.result("patch_sweep", sites, controls, progress, rerun=ranked, least_total=least_total, level=level)


def patch_sites(
    pair: ModelPair,
    prompt: Prompt,
    response: str | Response,
    sites: Sequence[Site],
    *,
    into: Sequence[str] = SIDES,
    method: str = "exact",
    rerun: int = RERUN,
    seed: int = 0,
) -> Patched:
    """Return what `patch_sweep` finds, of any sites: those of a run, which have groups of their own."""
    run = Run(pair, Asked.of(prompt, response), tuple(into), METRIC, seed, MAX_NEW_TOKENS, None)
    ranked = rerun if method == "estimate" else None
    return run.result("patch_sweep", sites, (), False, rerun=ranked, least_total=LEAST_TOTAL, level=0.95)


def control_patch(
    pair: ModelPair, control: Model, prompts: Sequence[Prompt], responses: Sequence[str | Response], of_pair: Patched
) -> ControlPatch:
    """Return the effects of a control's activations in the base, on the rows that were run of the pair.

    Args:
        of_pair: the pair's result on these prompts.

    Raises:
        InputError: as `patch_sweep`.
    """
    run = Run(pair, Asked.of(list(prompts), list(responses)), ("base",), METRIC, 0, MAX_NEW_TOKENS, None)
    sites = sites_of_result(of_pair)
    texts = {p.id: run.align(p, r) for p, r in zip(run.asked.prompts, run.asked.responses, strict=True)}
    effect = torch.stack([of_pair.effect[of_pair.prompt_id.index(name)] for name in texts])
    found = run.of_control(view_of(control), texts, sites, of_pair.into, effect)
    return ControlPatch(view_of(control).provenance("patch_sweep", {}), tuple(texts), found)


def sites_of_result(found: Patched) -> tuple[Site, ...]:
    """Return what each row of a result patched."""
    columns = (found.component, found.layer.tolist(), found.head_index.tolist(), found.at)
    return tuple(
        Site(component, layer, head, at if not at[0].isdigit() else tuple(map(int, at.split(","))))
        for component, layer, head, at in zip(*columns, strict=True)
    )
