"""The arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from lensdiff.inputs.spans import shorten
from lensdiff.pipeline.config import RunConfig
from lensdiff.results.errors import InputError

MOST_DIGITS = 5  # of a layer's number
RENDERINGS = {"raw": ("raw",), "chat": ("chat",), "both": ("raw", "chat")}
ENGINES: tuple[str, ...] = get_args(RunConfig.model_fields["engine"].annotation)
SHOWN = 60  # characters of an option that cannot be read
Base = Annotated[str, typer.Argument(metavar="BASE", help="Hub name, folder or .gguf file of the base model.")]
Tuned = Annotated[
    str, typer.Argument(metavar="TUNED", help="Of its tuned version, or a folder with a LoRA adapter on the base.")
]
Out = Annotated[Path, typer.Option("--out", help="Results go here; made if missing, continued if stopped.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes that do controls side by side, each with the pair in memory."),
]
Stream = Annotated[
    bool | None,
    typer.Option(
        "--stream/--no-stream",
        help="Read weights layer by layer and build no model; by default where both do not fit into memory.",
    ),
]
Engine = Annotated[
    str | None,
    typer.Option("--engine", metavar="|".join(ENGINES), help="ray: units are done by the actors of a Ray cluster."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no messages, only results and errors.")]
Prompt = Annotated[str | None, typer.Option(help="One prompt.")]
Instruction = Annotated[list[str] | None, typer.Option(help="A part of --prompt that instructs; may be given again.")]
Context = Annotated[list[str] | None, typer.Option(help="A part of --prompt that gives context; may be given again.")]
Response = Annotated[str | None, typer.Option(help="Response to --prompt; by default each model's own.")]
Prompts = Annotated[Path | None, typer.Option(help="Many prompts: a .jsonl file, or the paper's FinalDataset.tsv.")]
Template = Annotated[
    str, typer.Option(metavar="raw|chat|both", help="How prompts are rendered; chat: by the tuned model's template.")
]
Controls = Annotated[
    int, typer.Option(min=0, help="Meaningless changes of the same size, of each kind; a band needs 19, a verdict 59.")
]
FirstControls = Annotated[int, typer.Option(min=0, help="Meaningless changes of the same size, of the first kind.")]
Kinds = Annotated[
    str, typer.Option(help="Kinds of controls, joined by commas: distilled, gradient-noise, spectrum, norm.")
]
Layers = Annotated[str | None, typer.Option(help="Layers that are read; by default all; like 0,1,5-8.")]


def controls(kinds: str, **counts: int) -> dict[str, object]:
    """Return the table of a config that says which controls are made."""
    return {"kinds": [kind.strip() for kind in kinds.split(",")], **counts}


def engine(given: str) -> str:
    """Return where units are done.

    Raises:
        typer.BadParameter: it is nowhere that is known.
    """
    if given not in ENGINES:
        raise typer.BadParameter(f"--engine {given[:SHOWN]!r} is none of {', '.join(ENGINES)}")
    return given


def renderings(template: str) -> list[str]:
    """Return the renderings that a text names.

    Raises:
        typer.BadParameter: it names none.
    """
    if template not in RENDERINGS:
        raise typer.BadParameter(f"--template {template[:SHOWN]!r} is none of {', '.join(RENDERINGS)}")
    return list(RENDERINGS[template])


def layer_list(name: str, given: str | None) -> list[int] | None:
    """Return the layers that a text like `0,1,5-8` names.

    Raises:
        typer.BadParameter: it names none.
    """
    if given is None:
        return None
    found: list[int] = []
    for part in given.split(","):
        first, dash, last = part.strip().partition("-")
        ends = [first, last] if dash else [first]
        # without its length int() refuses a text of thousands of digits, and a range of billions fills the memory
        if not all(end.isdecimal() and len(end) <= MOST_DIGITS for end in ends) or (dash and int(first) > int(last)):
            raise typer.BadParameter(f"{name} {given[:SHOWN]!r} is no list of layers like 0,1,5-8")
        found.extend(range(int(first), int(last if dash else first) + 1))
    return found


def number_list(name: str, given: str, kind: type[int] | type[float] = int) -> list[int] | list[float]:
    """Return the numbers of a text like `1,5,10`.

    Raises:
        typer.BadParameter: it is no such list.
    """
    try:
        return [kind(part) for part in given.split(",")]
    except ValueError:
        what = "whole numbers like 1,5,10" if kind is int else "numbers like 0.5,1"
        raise typer.BadParameter(f"{name} {given[:SHOWN]!r} is no list of {what}") from None


def prompt_keys(
    prompt: str | None,
    instruction: list[str] | None,
    context: list[str] | None,
    response: str | None,
    prompts: Path | None,
) -> dict[str, object]:
    """Return the keys of a config that say where prompts come from.

    Raises:
        typer.BadParameter: neither or both of --prompt and --prompts are given, or spans without a prompt.
        InputError: a span is no part of the prompt.
    """
    if (prompt is None) == (prompts is None):
        raise typer.BadParameter("give either --prompt TEXT or --prompts FILE")
    if prompt is None:
        for name, value in (("--instruction", instruction), ("--context", context), ("--response", response)):
            if value:
                raise typer.BadParameter(f"{name} belongs to --prompt; a file of prompts brings its own")
        return {"prompts": str(prompts)}
    for name, spans in (("--instruction", instruction), ("--context", context)):
        for span in spans or []:
            if not span.strip() or span not in prompt:
                raise InputError(f"{name} {shorten(span)} is no part of --prompt {shorten(prompt)}")
    entry = {"text": prompt, "instruction": instruction or [], "context": context or []}
    return {"prompt": [entry if response is None else entry | {"response": response}]}
