"""A short probe whose logits tell whether two models are the same one."""

from typing import Any, cast

import torch
from torch import Tensor

# largest logit difference that is still the same model, as a share of its largest logit
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}
PROBE_LENGTH = 24


def probe_tokens(model: Any) -> Tensor:
    """Return the probe of a `transformers` model: tokens drawn from its whole vocabulary, the same in every run."""
    size = cast(Tensor, model.get_input_embeddings().weight).shape[0]
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", PROBE_LENGTH)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(size, (1, min(PROBE_LENGTH, limit)), generator=generator)


def logits_of(model: Any, probe: Tensor) -> Tensor:
    """Return the logits of a `transformers` (or peft) model, without dropout, in float32 on the CPU."""
    training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(probe.to(model.device)).logits.float().cpu()
    model.train(training)
    return logits
