from .devices import default_device as default_device
from .devices import usable_device as usable_device
from .load import as_dtype as as_dtype
from .load import load_model as load_model
from .load import quiet as quiet
