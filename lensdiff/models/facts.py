"""What a pair remembers of each of its models, so that it can compare them with one in memory."""

from dataclasses import dataclass

from lensdiff.models.precision import as_double
from lensdiff.models.view import ModelView


@dataclass(frozen=True)
class Facts:
    """What one model says of itself, as far as a comparison needs it."""

    architecture: str
    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    dtype: str
    bos: str
    eos: str
    chat_template: str
    weights: str
    final_gain: float

    @classmethod
    def of(cls, view: ModelView) -> "Facts":
        gain = view.gain("final") if view.known("final") else None
        return cls(
            architecture=view.info.architecture,
            n_layers=view.n_layers,
            n_heads=view.n_heads,
            n_key_value_heads=view.n_key_value_heads,
            d_model=view.d_model,
            d_head=view.d_head,
            d_mlp=view.d_mlp,
            d_vocab=view.d_vocab,
            dtype=str(view.dtype).removeprefix("torch."),
            bos=_bos_habit(view),
            eos=", ".join(map(str, view.info.eos_token_ids)) or "none",
            chat_template="none" if not view.info.chat_template else f"{len(view.info.chat_template)} characters",
            weights=view.info.weights,
            final_gain=float("nan") if gain is None else float(as_double(gain).mean()),
        )


def _bos_habit(view: ModelView) -> str:
    if view._tokenizer is None:
        return "no tokenizer"
    ids = view.tokenizer.encode("a", add_special_tokens=True)
    return "prepended" if view.tokenizer.bos_token_id in ids[:1] else "none"
