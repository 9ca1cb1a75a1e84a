"""`attribute` against captum's gradient x input and a plain loop of backward passes, in one run on one model.

    python -m experiments.benchmarks.attribution MODEL [--repeats 3] [--cases 20x34,4x48,29x100] [--threads 2] [--out F]

Prints for every (N, M) = (prompt tokens, response tokens): floating-point operations by torch's counter, the best
time of the repeats, the ratio to `attribute` as a user calls it, and the share of the machine's measured
matrix-multiply rate; `--out` writes the same as JSON. As a user calls it: a prompt's text and a response go in, a
result comes out, with its deletion check and, beside that, without. Rivals run on the same transformers model with the
same explicit attention, on token ids; the plain loop computes no weight gradients either. Scores must agree, or it
stops.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from captum.attr import InputXGradient
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from experiments.benchmarks.flops import counted
from lensdiff.analyses.attribute.defaults import DELETION_DRAWS
from lensdiff.analyses.attribute.gradients import cheaper_mode, final_at, forward_scores, target_gradients
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.attribute.paths import Text, scores_at
from lensdiff.analyses.attribute.targets import probability
from lensdiff.models import ModelView, load_model, view_of
from lensdiff.models.response import Response

# of the largest score: float32 noise of three ways to the same number, to which torch's softmax of the rivals adds 2e-4
AGREEMENT = 4e-4
Clock = Callable[[], float]
CHECKED, UNCHECKED = "attribute", "attribute, no deletion check"
WORDS = "The quick brown fox jumps over the lazy dog and runs from the hunters who follow it through the dark forest."


def matmul_rate(clock: Clock, size: int = 1024, repeats: int = 5) -> float:
    """The machine's float32 rate in operations a second, from the best of a few square products."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / min(timed(lambda: a @ b, clock) for _ in range(repeats))


def timed(run: Callable[[], object], clock: Clock) -> float:
    start = clock()
    run()
    return clock() - start


def prompt_of(view: ModelView, n: int) -> str:
    """A text of so many tokens."""
    text = " ".join([WORDS] * (1 + n // 10))
    text = text[
        : view.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"][n - 1][1]
    ]
    if len(ids_of(view, text)) != n:
        raise SystemExit(f"the tokenizer cuts {text!r} otherwise when it stands alone")
    return text


def said_of(view: ModelView, prompt: str, m: int, seed: int = 0) -> tuple[str, Tensor]:
    """A text behind the prompt, of so many tokens: random words that are one token each."""
    strings = view.tokenizer.batch_decode([[i] for i in range(view.d_vocab)])
    words = [i for i, text in enumerate(strings) if text[:1] == " " and text[1:].isascii() and text[1:].isalpha()]
    chosen = torch.randint(len(words), (m,), generator=torch.Generator().manual_seed(seed)).tolist()
    ids = [words[i] for i in chosen]
    text = "".join(strings[i] for i in ids)
    if ids_of(view, prompt + text) != ids_of(view, prompt) + ids:
        raise SystemExit(f"the tokenizer cuts {text!r} otherwise when it stands behind the prompt")
    return text, torch.tensor(ids)


def ids_of(view: ModelView, text: str) -> list[int]:
    return view.tokenizer(text, add_special_tokens=False)["input_ids"]


def asked(view: ModelView, prompt: str, said: Tensor, draws: int) -> Tensor:
    """`attribute` as a user calls it."""
    response = Response("", tuple(said.tolist()))
    return attribute(view.model, prompt, response, prepend_bos=False, deletion_draws=draws).scores


def ours(view: ModelView, tokens: Tensor, n: int, mode: str) -> Tensor:
    """The scores alone, once the text is tokens; "automatic" is forward mode without derivatives by hand."""
    text = Text(tokens[:-1], tokens[n:], slice(0, n), slice(n - 1, len(tokens) - 1))
    embedded = view.forward.embed(tokens[None, :-1])[0].detach()
    if mode == "automatic":
        hidden = final_at(view, text.tokens, embedded, text.outputs)
        _, gradients = target_gradients(view, hidden, text.said, probability)
        return forward_scores(view, text.tokens, text.inputs, text.outputs, gradients, by_hand=False)
    return scores_at(view, text, probability, embedded, embedded[:n], method=mode, chunk=None).scores


def plain_loop(model: PreTrainedModel, tokens: Tensor, n: int) -> Tensor:
    """One backward pass per response token over the whole sequence."""
    embedded = model.get_input_embeddings()(tokens[None, :-1]).detach().requires_grad_()
    values = probability(model(inputs_embeds=embedded).logits[0, n - 1 :], tokens[n:])
    columns = [torch.autograd.grad(v, embedded, retain_graph=True)[0][0, :n] for v in values]
    return torch.stack([(c * embedded[0, :n]).sum(-1) for c in columns], dim=1).detach()


def captum(model: PreTrainedModel, tokens: Tensor, n: int) -> Tensor:
    """captum's InputXGradient, once per response token, as its users call it."""
    embedded = model.get_input_embeddings()(tokens[None, :-1]).detach().requires_grad_()

    def target(x: Tensor, position: int) -> Tensor:
        return model(inputs_embeds=x).logits[:, position].softmax(-1)[:, tokens[position + 1]]

    method = InputXGradient(target)
    found = [
        method.attribute(embedded, additional_forward_args=position)[0, :n].sum(-1)
        for position in range(n - 1, len(tokens) - 1)
    ]
    return torch.stack(found, dim=1).detach()


def main(
    model: Annotated[str, typer.Argument(help="A folder or hub name of a model that is a HookedTransformer.")],
    cases: Annotated[str, typer.Option(help="Prompt x response tokens.")] = "20x34,4x48,29x100",
    repeats: Annotated[int, typer.Option(help="Times each; the best counts.")] = 3,
    threads: int = 2,
    modes: Annotated[bool, typer.Option(help="Also the mode that `auto` does not take.")] = True,
    automatic: Annotated[bool, typer.Option(help="Also forward mode by automatic differentiation.")] = False,
    rivals: Annotated[
        bool, typer.Option(help="Also the plain loop and captum; without them it calibrates modes.")
    ] = True,
    cpu_time: Annotated[
        bool, typer.Option(help="Measure the processor's time and not the clock's: where others use the machine too.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Also write what was measured to this file, as JSON.")] = None,
) -> None:
    """Compare on one model."""
    torch.set_num_threads(threads)
    view = view_of(load_model(model, device="cpu"))
    source = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
    )
    source.requires_grad_(False)
    rate, console, found = 0.0, Console(), []
    for n, m in (tuple(map(int, case.split("x"))) for case in cases.split(",")):
        prompt = prompt_of(view, n)
        _, said = said_of(view, prompt, m)
        tokens = torch.cat([torch.tensor(ids_of(view, prompt)), said])
        auto = cheaper_mode(view, n, m)
        ways: dict[str, Callable[[], Tensor]] = {
            CHECKED: lambda p=prompt, s=said: asked(view, p, s, DELETION_DRAWS),
            UNCHECKED: lambda p=prompt, s=said: asked(view, p, s, 0),
            f"scores alone ({auto})": lambda t=tokens, n=n, a=auto: ours(view, t, n, a),
        }
        if modes:
            other = "reverse" if auto == "forward" else "forward"
            ways[f"scores alone ({other})"] = lambda t=tokens, n=n, o=other: ours(view, t, n, o)
        if automatic:
            ways["scores alone (automatic)"] = lambda t=tokens, n=n: ours(view, t, n, "automatic")
        if rivals:
            ways["plain loop"] = lambda t=tokens, n=n: plain_loop(source, t, n)
            ways["captum"] = lambda t=tokens, n=n: captum(source, t, n)
        clock = time.process_time if cpu_time else time.perf_counter
        rate = max(rate, matmul_rate(clock))  # the machine's, not that of a slow moment
        of = "GFLOP a second of the processor" if cpu_time else f"GFLOP/s on {threads} threads"
        console.print(f"matrix products: {rate / 1e9:.1f} {of}")
        rows = compare(console, f"N = {n}, M = {m}", ways, rate=rate, repeats=repeats, clock=clock)
        found.append({"prompt": n, "response": m, "gflop_per_second": round(rate / 1e9, 1), "ways": rows})
        if out is not None:
            whole = {
                "model": model,
                "threads": threads,
                "torch": torch.__version__,
                "repeats": repeats,
                "time": "processor" if cpu_time else "clock",
            }
            out.write_text(json.dumps(whole | {"cases": found}, indent=1) + "\n")


def compare(
    console: Console, title: str, ways: dict[str, Callable[[], Tensor]], *, rate: float, repeats: int, clock: Clock
) -> dict[str, dict[str, Any]]:
    """Print one table and return its numbers; the repeats go round the ways, so that a slow moment meets all."""
    flops, scores = {}, {}
    for name, run in ways.items():
        with counted() as counter:
            scores[name] = run()
        flops[name] = counter.get_total_flops()
    first = next(iter(ways))
    for name, found in scores.items():
        gap = float((found - scores[first]).abs().max() / scores[first].abs().max())
        if not gap < AGREEMENT:
            raise SystemExit(f"{name} differs from {first} by {gap:.1e} of the largest score")
    times = {name: min(times) for name, times in _rounds(ways, repeats, clock).items()}
    table, rows = Table("way", "GFLOP", "seconds", "times", "share of matmul rate", title=title), {}
    for name, best in times.items():
        share = flops[name] / best / rate
        rows[name] = {"gflop": round(flops[name] / 1e9, 1), "seconds": round(best, 3), "share": round(share, 3)}
        rows[name]["times"] = round(best / times[first], 2)
        table.add_row(name, f"{flops[name] / 1e9:.0f}", f"{best:.2f}", f"{best / times[first]:.2f}", f"{share:.0%}")
    console.print(table)
    return rows


def _rounds(ways: dict[str, Callable[[], Tensor]], repeats: int, clock: Clock) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            times[name].append(timed(run, clock))
    return times


if __name__ == "__main__":
    typer.run(main)
