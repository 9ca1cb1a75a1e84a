"""How alike the residual streams of base and tuned model are, layer by layer."""

from lensdiff.analyses.layer_similarity.defaults import READ_TOKENS
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Count, LayersToTheEnd, Options, option


class LayerSimilarityOptions(Options):
    """Options of `layer_similarity`."""

    layers: LayersToTheEnd | None = option(
        None, "Layers whose entering stream is compared; by default all.", example=[0, 1, 2]
    )
    max_tokens: Count = option(READ_TOKENS, "Tokens of each response that are read.")


ANALYSIS = Analysis(
    name="layer_similarity",
    question="In which layers the residual streams part",
    more="Both models read the tuned model's response: by layer and by what a position is, linear CKA (the same "
    "geometry, whatever its axes), the mean relative change, the cosine, and how far all "
    "positions are shifted alike.",
    beside="the band of control models",
    options=LayerSimilarityOptions,
    asks=frozenset({"prompts"}),
    controls=19,
    first_kind=True,
)
