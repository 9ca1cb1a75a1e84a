"""What TransformerLens has itself, as its documentation shows it, on the same model and token ids, without gradients.

Each function gives what the analysis of lensdiff that it stands beside gives of one text: `ids` are the tokens that are
read, `first` the position that predicts the first of the tokens `said`. Where TransformerLens has several ways to the
same numbers it is the fastest of them. What lensdiff gives beside that (attention to instruction and context, the
effect of another head) is not taken from it, and not asked of a rival.
"""

import contextlib
import io
import math
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer, patching


@torch.no_grad()
def attention(model: HookedTransformer, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the patterns of all heads, [layer, head_index, query_pos, key_pos]; nothing is unembedded.

    Of each head also what the queries behind the first give the first key, and their entropy in bits, on average.
    """
    options: dict[str, Any] = {"return_type": None, "names_filter": lambda name: name.endswith("hook_pattern")}
    _, cache = model.run_with_cache(ids[None], **options)
    patterns = torch.stack([cache["pattern", layer][0] for layer in range(model.cfg.n_layers)])
    readers = patterns[:, :, 1:]
    entropy = torch.special.entr(readers).sum(-1).mean(-1) / math.log(2)
    return patterns, readers[..., 0].mean(-1), entropy


@torch.no_grad()
def logit_lens(model: HookedTransformer, ids: Tensor, first: int, said: Tensor, k: int) -> tuple[Tensor, ...]:
    """Return KL to the output, each token's rank from 1 and probability, [layer, out_pos], and the k likeliest tokens.

    The stream of every layer goes through the final norm: `accumulated_resid(apply_ln=True)` would divide each by the
    scale of the last.
    """
    kept: dict[str, Any] = {"return_type": None, "names_filter": lambda n: n.endswith(("resid_pre", "resid_post"))}
    _, cache = model.run_with_cache(ids[None], **kept)
    streams = cache.accumulated_resid(layer=-1, pos_slice=slice(first, None))[:, 0]
    log_probs = [model.unembed(model.ln_final(stream[None]))[0].log_softmax(dim=-1) for stream in streams]
    p = log_probs[-1].exp()
    found = []
    for own in log_probs:
        token = own.gather(-1, said[:, None])
        kl, rank = (p * (log_probs[-1] - own)).sum(-1), 1 + (own > token).sum(-1)
        found.append((kl, rank, token[:, 0].exp(), own.topk(k, dim=-1).indices))
    return tuple(torch.stack(parts) for parts in zip(*found, strict=True))


@torch.no_grad()
def direct_logit_attribution(model: HookedTransformer, ids: Tensor, first: int, said: Tensor, against: int) -> Tensor:
    """Return what each head, then each MLP, adds to logit(said) - logit(against), [part, out_pos].

    The model's norms must be folded. One pass and one stack for all positions; `tools.analysis` would run the model
    again for each of them.
    """
    cache: Any = model.run_with_cache(ids[None], return_type=None)[1]  # what it stacks is typed in several ways
    options: dict[str, Any] = {"pos_slice": slice(first, None), "has_batch_dim": False}
    options |= {"tokens": said, "incorrect_tokens": torch.full_like(said, against)}
    n_heads = model.cfg.n_layers * model.cfg.n_heads
    heads = cache.stack_head_results(layer=-1, pos_slice=options["pos_slice"])[:n_heads, 0]
    parts, names = cache.decompose_resid(layer=-1, mode="mlp", pos_slice=options["pos_slice"], return_labels=True)
    mlps = parts[[i for i, name in enumerate(names) if name.endswith("mlp_out")], 0]
    return torch.cat([cache.logit_attrs(heads, **options), cache.logit_attrs(mlps, **options)])


@torch.no_grad()
def patched_heads(model: HookedTransformer, donor: HookedTransformer, ids: Tensor, first: int, said: Tensor) -> Tensor:
    """Return how far each head of the donor moves the mean log-probability of the tokens, [layer, head_index]."""

    def metric(logits: Tensor) -> Tensor:
        return logits[0, first:].log_softmax(dim=-1).gather(-1, said[:, None]).mean()

    _, cache = donor.run_with_cache(ids[None], return_type=None)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        found = patching.get_act_patch_attn_head_out_all_pos(model, ids[None], cache, metric)
    return found - metric(model(ids[None]))


@torch.no_grad()
def generate(model: HookedTransformer, prompts: Tensor, max_new_tokens: int) -> list[list[int]]:
    """Return the greedy tokens of prompts of one length, decoded together, each up to its end."""
    options: dict[str, Any] = {"do_sample": False, "verbose": False, "return_type": "tokens"}
    found: Any = model.generate(prompts, max_new_tokens=max_new_tokens, **options)
    end, rows = getattr(model.tokenizer, "eos_token_id", None), found[:, prompts.shape[1] :].tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]
