"""`attribute` against captum's gradient x input and a plain loop of backward passes, in one run on one model.

    python experiments/benchmarks/attribution.py MODEL [--repeats 3] [--cases 20x34,4x48,29x100] [--threads 2]

Prints for every (N, M) = (prompt tokens, response tokens): floating-point operations by torch's counter, the best
time of the repeats, the ratio to each rival, and the share of the machine's measured matrix-multiply rate. Rivals run
on the same transformers model with the same explicit attention; the plain loop computes no weight gradients either.
`--automatic` adds forward mode by torch's own differentiation, `--no-rivals` leaves captum and the loop out. Scores
must agree, or it stops.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated, ClassVar

import torch
import typer
from captum.attr import InputXGradient
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PreTrainedModel

from lensdiff.analyses.attribute.gradients import cheaper_mode, forward_scores, reverse_scores, target_gradients
from lensdiff.analyses.attribute.targets import probability
from lensdiff.models import ModelView, load_model, view_of

# of the largest score: float32 noise of three ways to the same number, to which torch's softmax of the rivals adds 2e-4
AGREEMENT = 4e-4


def matmul_rate(size: int = 1024, repeats: int = 5) -> float:
    """The machine's float32 rate in operations a second, from the best of a few square products."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / min(timed(lambda: a @ b) for _ in range(repeats))


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ours(view: ModelView, tokens: Tensor, n: int, mode: str) -> Tensor:
    """What `attribute` computes once the text is tokens; "automatic" is forward mode without derivatives by hand."""
    outputs = slice(n - 1, len(tokens) - 1)
    with torch.no_grad():
        hidden = view.forward.final(tokens[None, :-1])[0, outputs]
    _, gradients = target_gradients(view, hidden, tokens[n:], probability)
    where = (view, tokens[:-1], slice(0, n), outputs, gradients)
    return reverse_scores(*where) if mode == "reverse" else forward_scores(*where, by_hand=mode == "forward")


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
    model: Annotated[str, typer.Argument(help="A folder or hub name of a model.")],
    cases: Annotated[str, typer.Option(help="Prompt x response tokens.")] = "20x34,4x48,29x100",
    repeats: Annotated[int, typer.Option(help="Times each; the best counts.")] = 3,
    threads: int = 2,
    modes: Annotated[bool, typer.Option(help="Also the mode that `auto` does not take.")] = True,
    automatic: Annotated[bool, typer.Option(help="Also forward mode by automatic differentiation.")] = False,
    rivals: Annotated[
        bool, typer.Option(help="Also the plain loop and captum; without them it calibrates modes.")
    ] = True,
) -> None:
    """Compare on one model."""
    torch.set_num_threads(threads)
    view = view_of(load_model(model, device="cpu"))
    source = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
    )
    source.requires_grad_(False)
    rate, console = 0.0, Console()
    for n, m in (tuple(map(int, case.split("x"))) for case in cases.split(",")):
        tokens = torch.randint(100, view.d_vocab, (n + m,), generator=torch.Generator().manual_seed(0))
        auto = cheaper_mode(view, n, m)
        ways: dict[str, Callable[[], Tensor]] = {
            f"lensdiff ({auto})": lambda t=tokens, n=n, a=auto: ours(view, t, n, a)
        }
        if modes:
            other = "reverse" if auto == "forward" else "forward"
            ways[f"lensdiff ({other})"] = lambda t=tokens, n=n, o=other: ours(view, t, n, o)
        if automatic:
            ways["lensdiff (automatic)"] = lambda t=tokens, n=n: ours(view, t, n, "automatic")
        if rivals:
            ways["plain loop"] = lambda t=tokens, n=n: plain_loop(source, t, n)
            ways["captum"] = lambda t=tokens, n=n: captum(source, t, n)
        rate = max(rate, matmul_rate())  # the machine's, not that of a slow moment
        console.print(f"matrix products: {rate / 1e9:.1f} GFLOP/s on {threads} threads")
        compare(console, f"N = {n}, M = {m}", ways, rate=rate, repeats=repeats)


class Everywhere(AbstractContextManager):
    """Counts operations of no module in particular: the counter's own tracker knows no `torch.autograd.grad`."""

    parents: ClassVar = {"Global"}

    def __exit__(self, *_: object) -> None:
        return None


def compare(console: Console, title: str, ways: dict[str, Callable[[], Tensor]], *, rate: float, repeats: int) -> None:
    """Print one table; the repeats go round the ways, so that a slow moment of the machine meets all of them."""
    flops, scores = {}, {}
    for name, run in ways.items():
        counter = FlopCounterMode(display=False)
        counter.mod_tracker = Everywhere()  # pyright: ignore[reportAttributeAccessIssue]
        with counter:
            scores[name] = run()
        flops[name] = counter.get_total_flops()
    first = next(iter(ways))
    for name, found in scores.items():
        gap = float((found - scores[first]).abs().max() / scores[first].abs().max())
        if not gap < AGREEMENT:
            raise SystemExit(f"{name} differs from {first} by {gap:.1e} of the largest score")
    times = {name: min(times) for name, times in _rounds(ways, repeats).items()}
    table = Table("way", "GFLOP", "seconds", "times slower", "share of matmul rate", title=title)
    for name in ways:
        share = flops[name] / times[name] / rate
        table.add_row(
            name, f"{flops[name] / 1e9:.0f}", f"{times[name]:.2f}", f"{times[name] / times[first]:.2f}", f"{share:.0%}"
        )
    console.print(table)


def _rounds(ways: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            times[name].append(timed(run))
    return times


if __name__ == "__main__":
    typer.run(main)
