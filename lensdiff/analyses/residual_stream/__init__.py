"""How the residual stream becomes a response, layer by layer and part by part."""

from lensdiff.analyses.residual_stream.defaults import READ_TOKENS
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Count, LayersToTheEnd, Options, option


class ResidualStreamOptions(Options):
    """Options of `residual_stream`."""

    layers: LayersToTheEnd | None = option(
        None, "Layers whose entering stream the lens reads; by default all.", example=[0, 1, 2]
    )
    max_tokens: Count = option(READ_TOKENS, "Tokens of each response that are read.")


ANALYSIS = Analysis(
    name="residual_stream",
    question="By which layers, heads and MLPs a response is made",
    more="All models read the tuned model's response: what each layer's stream would say (logit lens), and what each "
    "part adds to the response's tokens (direct logit attribution).",
    beside="the band of control models",
    options=ResidualStreamOptions,
    asks=frozenset({"prompts"}),
    controls=19,
    first_kind=True,
)
