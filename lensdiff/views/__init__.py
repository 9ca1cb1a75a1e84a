"""How results are seen: circuitsvis widgets and figures, inline in a notebook, as a file and in the report.

`show` knows every result by its class. A view turns a result into a `Widget`: escaped HTML, and data for a script that
the page holds once, however many widgets it shows.
"""

from lensdiff.views import annotations as _annotations  # noqa: F401
from lensdiff.views import attention as _attention  # noqa: F401
from lensdiff.views import attribution as _attribution  # noqa: F401 (registers itself with show)
from lensdiff.views import claims as _claims  # noqa: F401
from lensdiff.views import coherence as _coherence  # noqa: F401
from lensdiff.views import concepts as _concepts  # noqa: F401
from lensdiff.views import head_section as _head_section  # noqa: F401
from lensdiff.views import heads as _heads  # noqa: F401
from lensdiff.views import instruction_use as _instruction_use  # noqa: F401
from lensdiff.views import outputs as _outputs  # noqa: F401
from lensdiff.views import position as _position  # noqa: F401
from lensdiff.views import rotation as _rotation  # noqa: F401
from lensdiff.views import value_rotation as _value_rotation  # noqa: F401
from lensdiff.views import verbs as _verbs  # noqa: F401
from lensdiff.views import weights as _weights  # noqa: F401
from lensdiff.views.show import show
from lensdiff.views.widget import Widget, page

__all__ = ["Widget", "page", "show"]
