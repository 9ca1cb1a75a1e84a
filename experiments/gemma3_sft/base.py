"""Turn Gemma 3 270M from a GGUF file into a folder that `transformers`, `peft` and lensdiff open in seconds.

    python -m experiments.gemma3_sft.base gemma-3-270m-q4_k_m.gguf --out results/gemma3_sft/base

The weights are those of the quantised file, each value as it reads there, kept in float32. Converting the tokenizer of
262,144 entries takes minutes, which is why the folder is kept. A folder or the hub name google/gemma-3-270m needs none
of this: give it to `train.py` as it is.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import PreTrainedTokenizerBase

from lensdiff.models.loading.sources import read_source


def main(
    gguf: Annotated[Path, typer.Argument(help="The GGUF file.")],
    out: Annotated[Path, typer.Option(help="The folder that is written.")] = Path("results/gemma3_sft/base"),
) -> None:
    """Write the model and its tokenizer as a folder."""
    source = read_source(gguf, base=None, revision=None, dtype=torch.float32)
    assert isinstance(source.tokenizer, PreTrainedTokenizerBase)
    config = source.model.config
    if hasattr(config, "quantization_config"):  # says how the file stored the weights; a model with it cannot be saved
        del config.quantization_config
    model = type(source.model)(config)
    model.load_state_dict(source.model.state_dict())
    model.tie_weights()
    model.generation_config = source.model.generation_config
    source.tokenizer.save_pretrained(str(out))
    model.save_pretrained(str(out))
    typer.echo(f"{out}: {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    typer.run(main)
