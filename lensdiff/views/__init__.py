"""How anything is drawn: circuitsvis widgets and figures, inline in a notebook, as a file and in the report.

`show` finds the view of a result beside the result: in the module `view` of its folder. A view turns a result into a
`Widget`: escaped HTML, and data for a script that the page holds once, however many widgets it shows.
"""

from lensdiff.views.show import show
from lensdiff.views.widget import Widget, page

__all__ = ["Widget", "page", "show"]
