"""The tiny pair of the pipeline's tests."""

from tests.pipeline.conftest import models

__all__ = ["models"]
