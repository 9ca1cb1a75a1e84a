"""Tune SmolLM2-135M-Instruct a little with LoRA, and compare it with what it was: an adapter, a table and a page.

    python experiments/lora_smollm2/run.py MODEL --out results/lora_smollm2

MODEL is a folder, a GGUF file or the hub name of SmolLM2-135M-Instruct.
"""

import copy
import html
import json
import random
from pathlib import Path
from typing import Annotated

import torch
import typer
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from rich.progress import track
from transformers import PreTrainedTokenizerBase

from lensdiff import attribute, load_pair, load_prompts
from lensdiff.models.loading.sources import read_source
from lensdiff.views import page

PROMPTS = Path(__file__).parents[1] / "toy_pair" / "prompts.jsonl"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LABEL = "SmolLM2-135M-Instruct before and after {steps} LoRA steps: it was instruction-tuned already"


def loss_of(model: PeftModel, tokenizer: PreTrainedTokenizerBase, record: dict) -> torch.Tensor:
    """Mean cross-entropy in nats of the reference response after the raw prompt, end token included."""
    prompt = tokenizer(record["text"])["input_ids"]
    response = [*tokenizer(" " + record["reference"])["input_ids"], tokenizer.eos_token_id]
    ids = torch.tensor([prompt + response])
    logits = model(input_ids=ids[:, :-1]).logits[0, len(prompt) - 1 :]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(response))


def main(
    model: Annotated[str, typer.Argument(help="Folder, GGUF file or hub name of SmolLM2-135M-Instruct.")],
    out: Annotated[Path, typer.Option(help="Where adapter, table and page go.")] = Path("results/lora_smollm2"),
    steps: Annotated[int, typer.Option(help="Steps of four prompts each.")] = 60,
    rank: int = 8,
    rate: float = 3e-4,
    n_prompts: Annotated[int, typer.Option(help="Prompts compared; the others are trained on.")] = 12,
    max_new_tokens: int = 32,
    seed: int = 0,
) -> None:
    """Train the adapter on some of the toy pair's prompts and compare the models on the others."""
    torch.manual_seed(seed)
    rng, console = random.Random(seed), Console()
    records = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    held_out = {r["id"] for r in rng.sample(records, n_prompts)}
    train = [r for r in records if r["id"] not in held_out]
    source = read_source(model, base=None, revision=None, dtype=torch.float32)
    assert isinstance(source.tokenizer, PreTrainedTokenizerBase)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    tuned = get_peft_model(copy.deepcopy(source.model), config)
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in track(range(steps), description="tuning", console=console):
        batch = rng.sample(train, 4)
        loss = torch.stack([loss_of(tuned, source.tokenizer, r) for r in batch]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    tuned.save_pretrained(str(out / "adapter"))
    kept = [json.dumps(r, ensure_ascii=False) + "\n" for r in records if r["id"] in held_out]
    (out / "prompts.jsonl").write_text("".join(kept), encoding="utf-8")
    console.print(f"loss {sum(losses[:5]) / 5:.2f} (first five steps) to {sum(losses[-5:]) / 5:.2f} nats (last five)")

    pair = load_pair(model, out / "adapter", device="cpu")
    prompts = [p for p in load_prompts(PROMPTS) if p.id in held_out]
    diff = pair.compare(attribute, prompts, max_new_tokens=max_new_tokens)
    diff.to_df().to_parquet(out / "attribution.parquet")
    for base, after in zip(diff.base, diff.tuned, strict=True):
        console.print(f"{base.prompt_id}: {base.response!r} -> {after.response!r}", markup=False)
    title, path = LABEL.format(steps=steps), out / "attribution.html"
    body = f"<h1>{html.escape(title)}</h1>{diff.show().fragment()}"
    path.write_text(page(title, body), encoding="utf-8")
    console.print(f"{title}\n{path}")


if __name__ == "__main__":
    typer.run(main)
