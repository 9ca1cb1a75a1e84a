"""Tune a base model on the released prompts with LoRA: a real pre-trained base becomes a real instruction-tuned model.

    python -m experiments.gemma3_sft.train BASE --published CLONE --out results/gemma3_sft

BASE is a folder (see `base.py`) or a hub name, CLONE a clone of the authors' repository, whose 632 prompts have a
reference response each. A text is the prompt, a space, the response and the end token; the loss is on the response
alone. Every sixth prompt is held out. The frozen weights are read in bfloat16, the adapter is trained in float32.

It resumes where it was stopped. Out come `adapter/`, `held_out.jsonl` (prompts with references, spans marked) and
`training.json` (every step's loss, and that of the held-out references before and after each epoch).
"""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from rich.console import Console
from rich.progress import track
from transformers import PreTrainedTokenizerBase

from lensdiff.inputs.prompts import MARKED
from lensdiff.inputs.published import Published, load_published
from lensdiff.models.loading.devices import default_device
from lensdiff.models.loading.sources import read_source

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EVERY = 6  # one prompt in so many is held out
BATCH = 4
RESPONSE_TOKENS = 200  # where a longer reference is cut; one that is cut gets no end token
PROMPT_TOKENS = 600  # a longer prompt is not trained on
WARM_UP = 10  # steps until the rate is at its peak
KEEP = 10  # steps between two states on disk

Text = tuple[list[int], list[int]]
"""Token ids of a prompt, its BOS included, and of its response."""


def split(ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the prompts that are trained on and those held out: every sixth, in the file's order."""
    held_out = ids[EVERY - 1 :: EVERY]
    return [key for key in ids if key not in set(held_out)], list(held_out)


def encode(tokenizer: Any, prompt: str, response: str) -> Text:
    """Return the ids of a prompt and its response, cut at RESPONSE_TOKENS or closed by the end token."""
    said = tokenizer(" " + response.strip(), add_special_tokens=False)["input_ids"][:RESPONSE_TOKENS]
    end = [tokenizer.eos_token_id] if len(said) < RESPONSE_TOKENS else []
    return tokenizer(prompt)["input_ids"], [*said, *end]


def losses(model: Any, text: Text) -> torch.Tensor:
    """Return the cross-entropy of each response token in nats; logits are made for these positions alone."""
    prompt, response = text
    ids, answer = (torch.tensor(tokens, device=model.device) for tokens in ([prompt + response[:-1]], response))
    logits = model(input_ids=ids, logits_to_keep=len(response), use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(logits.float(), answer, reduction="none")


def rate_at(step: int, steps: int, peak: float) -> float:
    """Return the learning rate of a step: a linear warm-up, then a cosine to zero at the end."""
    if step < WARM_UP:
        return peak * (step + 1) / WARM_UP
    return peak * 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / max(1, steps - WARM_UP)))


def line_of(data: Published, key: str) -> str:
    """Return a held-out prompt as a line of a JSON Lines file that `load_prompts` reads."""
    prompt = data.prompts[key]
    spans = {part: [list(span) for span in prompt.ranges(part)] for part in MARKED}
    record = {"id": key, "text": prompt.stripped, **spans, "reference": data.references[key]}
    return json.dumps(record, ensure_ascii=False) + "\n"


@torch.no_grad()
def held_out_loss(model: Any, texts: Sequence[Text]) -> float:
    """Return the mean over texts of a reference's mean cross-entropy, in nats a token."""
    return sum(losses(model, text).mean().item() for text in texts) / len(texts)


def keep(state: dict[str, Any], path: Path) -> None:
    """Write a state so that a stop in the middle leaves the one before."""
    torch.save(state, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def main(
    base: Annotated[str, typer.Argument(help="Folder or hub name of a pre-trained base.")],
    published: Annotated[Path, typer.Option(help="Clone of the authors' repository.")],
    out: Annotated[Path, typer.Option(help="Where the adapter goes.")] = Path("results/gemma3_sft"),
    epochs: int = 3,
    rank: int = 32,
    rate: Annotated[float, typer.Option(help="Learning rate at its peak.")] = 3e-4,
    max_steps: Annotated[int | None, typer.Option(help="Stop after so many, for a try.")] = None,
    n_held_out: Annotated[int | None, typer.Option(help="Held-out references that the loss is measured on.")] = None,
    seed: int = 0,
    device: Annotated[str | None, typer.Option(help="By default the fastest that is present.")] = None,
) -> None:
    """Train the adapter, or go on where it was stopped."""
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    data = load_published(published)
    source = read_source(base, base=None, revision=None, dtype=torch.bfloat16)
    tokenizer = source.tokenizer
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    trained, held_out = split(list(data.prompts))
    texts = {key: encode(tokenizer, data.prompts[key].text, data.references[key]) for key in data.prompts}
    trained = [key for key in trained if len(texts[key][0]) <= PROMPT_TOKENS]
    measured = [texts[key] for key in held_out if len(texts[key][0]) <= PROMPT_TOKENS][:n_held_out]
    (out / "held_out.jsonl").write_text("".join(line_of(data, key) for key in held_out), encoding="utf-8")

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(source.model.to(device or default_device()), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    state_file = out / "state.pt"
    history: dict[str, Any] = {"loss": []}
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True, map_location=model.device)
        set_peft_model_state_dict(model, state["adapter"])
        optimizer.load_state_dict(state["optimizer"])
        history = state["history"]
    else:
        history["held_out"] = [held_out_loss(model, measured)]
    per_epoch = len(trained) // BATCH
    steps = epochs * per_epoch
    order = [
        trained[i]
        for epoch in range(epochs)
        for i in torch.randperm(len(trained), generator=torch.Generator().manual_seed(seed + epoch))[
            : per_epoch * BATCH
        ].tolist()
    ]
    begin = len(history["loss"])
    console.print(f"{len(trained)} prompts, {len(held_out)} held out, steps {begin} to {steps}")
    for step in track(range(begin, min(steps, max_steps or steps)), description="tuning", console=console):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, rate)
        total = 0.0
        for key in order[step * BATCH : (step + 1) * BATCH]:
            loss = losses(model, texts[key]).mean() / BATCH
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        history["loss"].append(total)
        if (step + 1) % per_epoch == 0:
            history["held_out"].append(held_out_loss(model, measured))
        if (step + 1) % KEEP == 0 or step + 1 == steps:
            adapter = get_peft_model_state_dict(model)
            keep({"adapter": adapter, "optimizer": optimizer.state_dict(), "history": history}, state_file)
    if len(history["loss"]) < steps:
        return
    where = {"device": model.device.type, "torch": torch.__version__}
    history |= {"epochs": epochs, "rank": rank, "rate": rate, "seed": seed, "n_held_out": len(measured)} | where
    model.save_pretrained(str(out / "adapter"))
    (out / "training.json").write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    console.print(f"held-out references, nats a token: {', '.join(f'{-loss:.2f}' for loss in history['held_out'])}")
    console.print(f"{out / 'adapter'}")


if __name__ == "__main__":
    typer.run(main)
