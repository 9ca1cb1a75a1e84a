"""Whether a value that is written at a point goes on from there: a pass with changed values, and what must follow.

A hook may fire and change nothing (a wrapper that hands an attention's weights out once they were used). So before a
point is first written, random changes are written at it in every layer at once, and each layer must show what follows:
the changed parts add up to the stream, the changed scores make the pattern, the changed pattern mixes the values, the
changed z goes through W_O, the changed stream is read by the next part, the changed embedding arrives.
"""

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from lensdiff.models.inside.meaning import LogitMap, Meaning
from lensdiff.models.inside.norms import Unknown, is_norm
from lensdiff.models.inside.points import WHOLE, Point, PointName, Site, adds_up
from lensdiff.models.inside.record import BlockRecord, recorded_modules
from lensdiff.models.inside.tape import CLOSE, Tape, probe, recorded, same
from lensdiff.models.inside.wrappers import Wrapper

NOTHING = "what is written there changes nothing that must follow from it"


def why_not_written(wrapper: Wrapper, meaning: Meaning, name: PointName) -> dict[int | None, str]:
    """Return, by layer (None for a point of the whole model), why writing at a point does not act; "" where it does."""
    sizes = wrapper.sizes()
    layers: list[int | None] = [None] if name in WHOLE else list(range(sizes.n_layers))
    sites = {layer: meaning.points.get(Point(name, layer)) for layer in layers}
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad(), wrapper.lock, wrapper.precision(), ExitStack() as stack:
        tokens = probe(sizes.d_vocab, sizes.n_ctx, sizes.device)
        untouched = wrapper(tokens) if name == "embed" else None
        change = _mixed if name == "pattern" else _noisy

        def changed(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
            return change(out, generator)

        if name == "final":
            pre = wrapper.model.unembed.register_forward_pre_hook(
                lambda _, args: (change(args[0], generator), *args[1:])
            )
            stack.callback(pre.remove)
        for site in sites.values():
            if isinstance(site, Site):
                stack.callback(site.module.register_forward_hook(changed).remove)
        modules = [*recorded_modules(wrapper), *(s.module for s in meaning.points.values() if isinstance(s, Site))]
        tape = stack.enter_context(recorded(modules))
        logits = wrapper(tokens)
        if untouched is not None:
            return {None: NOTHING if torch.equal(logits, untouched) else ""}
        if name == "final":
            return {None: _unembedding(wrapper, meaning, tape, logits)}
        norms = {id(module): (path, module) for path, module in wrapper.model.named_modules() if is_norm(module)}
        records = [BlockRecord(wrapper, layer, tape, norms) for layer in range(sizes.n_layers)]
        return {record.layer: _follows(record, meaning, name) for record in records}


def _noisy(value: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float32).to(value)
    finite = value.masked_fill(value < torch.finfo(value.dtype).min / 2, 0.0)  # masked scores
    return value + noise * finite.square().mean().sqrt()


def _mixed(value: Tensor, generator: torch.Generator) -> Tensor:
    # rows go on summing to 1
    drawn = torch.rand(value.shape, generator=generator, dtype=torch.float32).to(value) * (value > 0)
    return (value + drawn / drawn.sum(dim=-1, keepdim=True)) / 2


def _follows(record: BlockRecord, meaning: Meaning, name: PointName) -> str:
    tape, layer, close = record.tape, record.layer, record.close
    if name == "attn_scores":
        return NOTHING if record.wrong_scores() else ""
    if name == "pattern":
        return NOTHING if record.wrong_pattern() else ""
    if name == "z":
        return NOTHING if record.wrong_matrix("W_O") else ""
    made = {n: _at(meaning, tape, Point(n, layer)) for n in ("resid_pre", "attn_out", "mlp_out", "resid_post")}
    if name == "resid_post":
        following = layer + 1 < record.wrapper.sizes().n_layers
        after = tape.read(record.wrapper.model.blocks[layer + 1]) if following else _before_final(record)
        return "" if same(after, made["resid_post"], close) else NOTHING
    before, after = made["resid_pre"], made["resid_post"]
    if before is None or after is None or not adds_up(before, [made["attn_out"], made["mlp_out"]], after, close):
        return NOTHING
    if name == "resid_pre" and not same(_read(record, "attn"), before, close):
        return NOTHING
    if name in ("attn_out", "resid_mid") and not isinstance(meaning.points[Point("resid_mid", layer)], Unknown):
        part = made["attn_out"]
        assert part is not None
        read = _read(record, "mlp")
        if read is None or not same(read.reshape(before.shape), before + part.reshape(before.shape), close):
            return NOTHING
    return ""


def _at(meaning: Meaning, tape: Tape, point: Point) -> Tensor | None:
    site = meaning.points[point]
    return site.value(tape) if isinstance(site, Site) else None


def _read(record: BlockRecord, name: str) -> Tensor | None:
    """Return the stream as attention or MLP read it: in front of their norm, where they have one."""
    key = record.norm_before(name)
    return record.read_by(name) if key is None else record.tape.ins[key]


def _before_final(record: BlockRecord) -> Tensor | None:
    model, tape = record.wrapper.model, record.tape
    norm = getattr(model, "ln_final", None)
    found = tape.read(norm)
    return tape.read(getattr(norm, "original_component", None)) if found is None else found


def _unembedding(wrapper: Wrapper, meaning: Meaning, tape: Tape, logits: Tensor) -> str:
    hidden, found = tape.read(wrapper.model.unembed), meaning.logits
    if hidden is None or not isinstance(found, LogitMap):
        return NOTHING
    raw = hidden @ wrapper.W_U
    expected = found(raw if wrapper.b_U is None else raw + wrapper.b_U)
    return "" if same(logits, expected, CLOSE[wrapper.sizes().dtype]) else NOTHING
