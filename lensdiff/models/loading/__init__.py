"""From a hub name, a folder, a GGUF file, an adapter or an object to a wrapped model that was held against it."""

from lensdiff.models.loading.load import as_dtype, default_device, load_model, quiet, usable_device

__all__ = ["as_dtype", "default_device", "load_model", "quiet", "usable_device"]
