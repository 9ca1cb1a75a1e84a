"""Claims made by hand, without a model."""

import numpy as np

from lensdiff.analyses.claims.evidence import INSTRUCTION
from lensdiff.analyses.claims.measure import Claims, Evidence, claims
from lensdiff.analyses.claims.words import Made
from lensdiff.results import Provenance


def answers(effect: float, kinds: tuple[str, ...] = ("spectrum", "gradient-noise"), n: int = 59) -> Claims:
    """Claims of which the first has an effect beside evenly spread controls of some kinds, from -0.1 to 0.1."""
    controls = {kind: np.linspace(-0.1, 0.1, n).tolist() for kind in kinds}
    made = tuple(Made(kind, n, n, 0) for kind in kinds)
    evidence = Evidence(effect, INSTRUCTION, controls, made, interval=(effect - 0.2, effect + 0.2))
    return claims(Provenance("claims", "a -> b"), {"instruction": evidence})
