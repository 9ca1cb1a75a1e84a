"""What readers without scripts see in place of a picture: a table of the same numbers, escaped."""

import pandas as pd

from lensdiff.views.section import cell
from lensdiff.views.widget import templates

_TABLE = templates.from_string(
    "<table><caption>{{ caption }}</caption>"
    "<thead><tr>{% for name in columns %}<th scope=col>{{ name }}</th>{% endfor %}</tr></thead>"
    "<tbody>{% for row in rows %}<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>{% endfor %}</tbody>"
    "</table>"
)


def table_html(frame: pd.DataFrame, caption: str) -> str:
    """Return a frame as an escaped HTML table."""
    rows = [[cell(value) for value in row] for row in frame.itertuples(index=False)]
    return _TABLE.render(caption=caption, columns=[str(name) for name in frame.columns], rows=rows)
