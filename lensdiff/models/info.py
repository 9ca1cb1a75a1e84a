"""What is known of a loaded model beside its weights."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelInfo:
    """What is known about a loaded model beside its weights."""

    id: str
    architecture: str
    wrapper: str  # "hooked" or "bridge"
    weights: str = "raw"  # "raw", "folded", or "as given" for a model that was wrapped elsewhere
    revision: str | None = None
    eos_token_ids: tuple[int, ...] = ()
    chat_template: str | None = None
    notes: tuple[str, ...] = ()  # what was said on loading
