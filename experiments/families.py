"""What lensdiff makes of each model family, measured against `transformers` on tiny checkpoints with scaled norms.

    python -m experiments.families [FAMILY ...] [--out experiments/families.md]

One row per family and wrapper; every number is the largest difference from `transformers` in float64 as a share of the
largest value there, or the sentence that refuses it.

    logits       of a text longer than every window and original context
    generation   greedy tokens that differ from an uncached argmax, of all (a batch of unequal prompts)
    gains        what scales the inputs of attention and MLP and the final stream, against the weights by their names
    patterns     attention, against the model's own attentions
    forward, reverse   gradient x input, against one backward pass per response token
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lensdiff.analyses.attribute.gradients import forward_scores, reverse_scores, target_gradients
from lensdiff.analyses.attribute.targets import TARGETS
from lensdiff.models import ModelView, load_model, view_of
from lensdiff.models.decoding import greedy
from lensdiff.models.inside.precision import double_precision
from lensdiff.models.inside.wrappers import HookedTransformer
from lensdiff.models.loading.architectures import why_not_hooked
from lensdiff.results import InputError
from tests.checkpoints import FAMILIES, MORE, TEXT, hf_model, tokenizer_of

Value = float | str
LONG = 60  # tokens: longer than the windows (16) and the original contexts (32) of the checkpoints
LENGTHS = (24, 11, 17, 5, 38)  # of the prompts that are decoded together
NEW = 12
N, M = 9, 5  # prompt and response tokens of the attribution

# where the weights that scale the inputs of attention and MLP, and the final stream, are in `transformers`, and whether
# they count from 0 or from 1; "" where the stream itself is read
_LLAMA = ("input_layernorm", "post_attention_layernorm", "model.norm", 0.0)
_GPT2 = ("ln_1", "ln_2", "transformer.ln_f", 0.0)
_POST = ("", "", "model.norm", 0.0)
_GEMMA = ("input_layernorm", "pre_feedforward_layernorm", "model.norm", 1.0)
GAINS: dict[str, tuple[str, str, str, float]] = {
    "gpt2": _GPT2,
    "gpt2_quick_gelu": _GPT2,
    "gpt2_scaled_by_layer": _GPT2,
    "gptj": ("ln_1", "ln_1", "transformer.ln_f", 0.0),
    "gpt_neox": ("input_layernorm", "post_attention_layernorm", "gpt_neox.final_layer_norm", 0.0),
    "gpt_neox_sequential": ("input_layernorm", "post_attention_layernorm", "gpt_neox.final_layer_norm", 0.0),
    "gemma": ("input_layernorm", "post_attention_layernorm", "model.norm", 1.0),
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "gemma4": (*_GEMMA[:3], 0.0),
    "vaultgemma": _GEMMA,
    "qwen3_next": (*_LLAMA[:3], 1.0),
    "nemotron": (*_LLAMA[:3], 1.0),
    "olmo2": _POST,
    "olmo3": _POST,
    "flex_olmo": _POST,
    "exaone4": _POST,
    "cohere": ("input_layernorm", "input_layernorm", "model.norm", 0.0),
    "phi": ("input_layernorm", "input_layernorm", "model.final_layernorm", 0.0),
    "opt": ("self_attn_layer_norm", "final_layer_norm", "model.decoder.final_layer_norm", 0.0),
    "bloom": ("input_layernorm", "post_attention_layernorm", "transformer.ln_f", 0.0),
    "falcon": ("input_layernorm", "input_layernorm", "transformer.ln_f", 0.0),
}


@dataclass(frozen=True)
class Row:
    """One family in one wrapper."""

    family: str
    wrapper: str
    loads: str
    logits: Value = ""
    generation: Value = ""
    gains: Value = ""
    patterns: Value = ""
    forward: Value = ""
    reverse: Value = ""


def measure(family: str, wrapper: str) -> Row:
    """Return the row of a family in a wrapper."""
    # untied: a large embedding that is the unembedding too says the same token for ever, whatever it is asked
    source, reference = (hf_model(family, dtype=torch.float64, tie_word_embeddings=False) for _ in range(2))
    try:
        model = load_model(source, tokenizer=tokenizer_of(), wrapper=wrapper, dtype="float64", device="cpu")
    except InputError as error:
        return Row(family, wrapper, str(error))
    view = view_of(model)
    if wrapper == "hooked":
        exact_rotary(reference)
    with double_precision():
        return Row(
            family,
            wrapper,
            "yes",
            _tried(lambda: _logits(view, reference)),
            _tried(lambda: _generation(view, reference)),
            _tried(lambda: _gains(view, reference, GAINS.get(family, _LLAMA))),
            _tried(lambda: _patterns(view, reference)),
            _tried(lambda: _scores(view, reference, forward_scores)),
            _tried(lambda: _scores(view, reference, reverse_scores)),
        )


def _tried(run: Callable[[], float]) -> Value:
    try:
        return run()
    except InputError as error:
        return str(error)


def exact_rotary(model: Any) -> None:
    # transformers rounds the rotary frequencies to float32, a HookedTransformer in float64 does not
    for module in model.modules():
        buffers = dict(module.named_buffers(recurse=False))
        if "inv_freq" in buffers:
            half, scaling = buffers["inv_freq"].shape[0], module.config.rope_parameters
            exact = scaling["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
            if scaling["rope_type"] == "llama3":
                exact = _llama3(exact, scaling)
            module.inv_freq = exact


def _llama3(frequencies: Tensor, scaling: dict[str, float]) -> Tensor:
    wavelength = 2 * torch.pi / frequencies
    context, low, high = (
        scaling[name] for name in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    smooth = ((context / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * frequencies / scaling["factor"] + smooth * frequencies


def _text(length: int) -> Tensor:
    return torch.tensor((tokenizer_of()(" ".join(TEXT))["input_ids"])[:length])


def _share(got: Tensor, expected: Tensor) -> float:
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-300))


def _logits(view: ModelView, reference: Any) -> float:
    tokens = _text(LONG)[None]
    with torch.no_grad():
        return _share(view.forward.logits(tokens), reference(tokens).logits)


def _generation(view: ModelView, reference: Any) -> float:
    prompts = [_text(LONG)[-length:] for length in LENGTHS]
    wrong, said = 0, set()
    for prompt, new in zip(prompts, greedy(view, prompts, max_new_tokens=NEW, stops=()), strict=True):
        expected = uncached(reference, prompt, NEW)
        wrong += int((expected != new).sum())
        said |= set(expected.tolist())
    assert len(said) > NEW, "a model that says one thing whatever it is asked proves nothing"
    return wrong / (NEW * len(prompts))


def uncached(reference: Any, prompt: Tensor, count: int) -> Tensor:
    """Return the greedy continuation of a `transformers` model by whole passes alone."""
    ids = prompt[None]
    with torch.no_grad():
        for _ in range(count):
            logits = reference(ids, use_cache=False).logits[:, -1]
            ids = torch.cat([ids, logits.argmax(dim=-1)[:, None]], dim=1)
    return ids[0, len(prompt) :]


def _gains(view: ModelView, reference: Any, where: tuple[str, str, str, float]) -> float:
    *inside, final, offset = where
    worst = _gain_difference(view.weights.gain("final"), reference.get_submodule(final), offset)
    for layer, block in enumerate(blocks_of(reference)):
        for name, norm in zip(("attn", "mlp"), inside, strict=True):
            module = getattr(block, norm) if norm else None
            worst = max(worst, _gain_difference(view.weights.gain(name, layer), module, offset))  # pyright: ignore[reportArgumentType]
    return worst


def _gain_difference(got: Tensor | None, norm: Any, offset: float) -> float:
    if norm is None:
        return 0.0 if got is None else float("inf")
    return float("inf") if got is None else _share(got, norm.weight + offset)


def blocks_of(reference: Any) -> Any:
    """Return the list of layers of a `transformers` model."""
    lists = (m for m in reference.modules() if isinstance(m, torch.nn.ModuleList))
    return next(m for m in lists if len(m) == reference.config.get_text_config().num_hidden_layers)


def _patterns(view: ModelView, reference: Any) -> float:
    tokens = _text(LONG)
    with torch.no_grad():
        expected = reference(tokens[None], output_attentions=True).attentions
    return max(_share(got, rows[0]) for got, rows in zip(view.forward.patterns(tokens), expected, strict=True))


def _scores(view: ModelView, reference: Any, run: Callable[..., Tensor]) -> float:
    tokens = _text(N + M)
    embedding = reference.get_input_embeddings()
    kept: list[Tensor] = []

    def keep(module: torch.nn.Module, args: tuple, out: Tensor) -> Tensor:
        kept.append(out.detach().requires_grad_(True))
        return kept[-1]

    with torch.enable_grad():
        handle = embedding.register_forward_hook(keep)
        values = TARGETS["probability"](reference(tokens[None, :-1]).logits[0, N - 1 :], tokens[N:])
        handle.remove()
        columns = [torch.autograd.grad(value, kept[0], retain_graph=True)[0][0, :N] for value in values]
    expected = torch.stack([(column * kept[0][0, :N]).sum(-1) for column in columns], dim=1).detach()
    outputs = slice(N - 1, N - 1 + M)
    with torch.no_grad():
        hidden = view.forward.final(tokens[None, :-1])[0, outputs]
    _, gradients = target_gradients(view, hidden, tokens[N:], TARGETS["probability"])
    return _share(run(view, tokens[:-1], slice(0, N), outputs, gradients).detach(), expected)


def wrappers_of(family: str) -> tuple[str, ...]:
    """Return the wrappers that a family is measured in: a HookedTransformer only where one can hold it."""
    source = hf_model(family)
    hooked = HookedTransformer is not None and why_not_hooked(source.config, type(source).__name__) is None
    return ("hooked", "bridge") if hooked else ("bridge",)


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    names = [field.name for field in fields(Row)]
    cells = [[f"{v:.0e}" if isinstance(v, float) else v.replace("|", "\\|") for v in astuple(row)] for row in rows]
    lines = [names, ["---"] * len(names), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Print the table, and write it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=[*FAMILIES, *MORE])
    parser.add_argument("--out", type=Path, help="a file for the table, with the versions it was made with")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = [measure(family, wrapper) for family in options.families for wrapper in wrappers_of(family)]
    print(table(rows))
    if options.out:
        from lensdiff.results.provenance import package_versions

        made = ", ".join(f"{name} {version}" for name, version in package_versions().items() if name != "lensdiff")
        options.out.write_text(f"{table(rows)}\n\nMade by `python -m experiments.families` with {made}.\n")


if __name__ == "__main__":
    main()
