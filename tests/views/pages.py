"""What a page's scripts are given, read back from the page."""

import json
import re
from typing import Any

from lensdiff.views.widget import Widget


def embedded(html: str) -> list[Any]:
    """The data of every widget of a page."""
    return [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', html, re.S)]


def given(widget: Widget) -> Any:
    """What a widget's script is given."""
    (data,) = embedded(widget.fragment())
    return data
