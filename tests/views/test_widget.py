"""Widgets and pages as text: escaping, one bundle, no other host. What a browser makes of them: tests/browser."""

import base64
import html as escapes
import json
import re
from dataclasses import dataclass
from importlib.metadata import distribution, version
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from lensdiff.results import Diff, InputError
from lensdiff.views import Widget, page, show
from lensdiff.views.widget import bundle, packed, script_json
from tests.analyses.attribute.results import attribution
from tests.views.hostile import HOSTILE
from tests.views.pages import embedded, given

TEXTS = [*HOSTILE, "plain", "\x00\x1f", "]]>", "</SCRIPT\n>", "😀"]


class Pair(NamedTuple):
    """What a script takes as a list."""

    word: int
    score: float


@dataclass(frozen=True)
class Inner:
    """A part of a view's data."""

    name: str
    pairs: list[Pair]


@dataclass(frozen=True)
class Data:
    """Data of a view that does not exist."""

    texts: list[Any]
    inner: Inner | None = None
    by_name: dict[str, Inner] | None = None


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:20]))
def test_json_in_a_script_reads_back_and_cannot_end_it(text):
    found = script_json({text: [text, 1.5, None]})
    assert json.loads(found) == {text: [text, 1.5, None]}
    assert not set(found) & set("<>&\u2028\u2029")


def test_a_dataclass_is_an_object_of_its_fields_in_their_order():
    inner = Inner("</script>", [Pair(3, 0.5)])
    found = script_json(Data(["a", None, (1, 2)], inner, {"x": inner}))
    part = r'{"name":"\u003c/script\u003e","pairs":[[3,0.5]]}'
    assert found == f'{{"texts":["a",null,[1,2]],"inner":{part},"by_name":{{"x":{part}}}}}'


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused(value):
    with pytest.raises(ValueError, match="JSON compliant"):
        script_json(Data([value]))


@pytest.mark.parametrize("value", [torch.zeros(2), np.int64(1), {1, 2}, b"x"], ids=lambda value: type(value).__name__)
def test_what_json_cannot_hold_is_refused_by_name(value):
    with pytest.raises(TypeError, match=f"a page's script can be given no {type(value).__name__}"):
        script_json(Data([value]))


def test_packed_numbers_are_near_and_clipped():
    values = torch.tensor([[-1.0, -0.5, 0.0], [0.25, 1.0, 3.0]])
    signed = torch.frombuffer(bytearray(base64.b64decode(packed(values))), dtype=torch.int8).reshape(2, 3) / 127
    torch.testing.assert_close(signed, values.clamp(-1, 1), atol=0.5 / 127, rtol=0)


def test_a_fragment_keeps_its_data_and_escapes_the_rest():
    found = Widget('"><script>', Data(TEXTS), fallback="<p>x</p>").fragment()
    assert embedded(found) == [{"texts": TEXTS, "inner": None, "by_name": None}]
    assert found.count("<script") == 1
    assert 'data-view="&quot;&gt;&lt;script&gt;"' in found


def test_shared_scripts_draw_the_view_of_no_analysis():
    texts = [item.read_text("utf-8") for item in files("lensdiff.views").joinpath("static").iterdir()]
    assert any("LensDiff.views[" in text for text in texts)
    found = [name for text in texts for name in re.findall(r"LensDiff\.views\.(\w+)", text)]
    assert sorted(found) == ["responses", "rows"]  # any table, and what every analysis of prompts shares


def test_fragments_have_different_ids():
    widget = Widget("attribution", Data([]))
    assert widget.fragment() != widget.fragment()


def test_a_page_is_escaped_and_holds_the_bundle_once():
    html = page("<b>&", "<p>body</p>" * 2)
    assert "<title>&lt;b&gt;&amp;</title>" in html
    assert html.count(bundle()) == 1
    assert bundle() not in page("t", "", circuitsvis=False)
    assert "</script>" not in bundle()


def test_the_bundle_stands_below_its_licence():
    notice, comment, script = bundle().partition("*/\n")
    licence = distribution("circuitsvis").read_text("LICENSE.txt") or ""
    assert "Copyright (c) 2022 Alan Cooney" in licence
    assert notice == f"/*! circuitsvis {version('circuitsvis')}\n{licence}"
    assert len(script) > 1_000_000
    assert comment


def test_a_page_names_no_other_host_to_load_from():
    html = page("t", Widget("attribution", Data([])).fragment())
    assert not re.findall(r"<(?:link|iframe|img|object|embed)\b|<script[^>]+src", html.replace(bundle(), ""))
    assert "default-src 'none'" in html
    assert set(re.findall(r"\w+://[^\"]*", html.replace(bundle(), ""))) <= {"http://www.w3.org/2000/svg"}  # a name


def test_saved_and_inline_are_the_same_page(tmp_path):
    widget = attribution(HOSTILE, HOSTILE).show()
    saved = widget.save(tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    (srcdoc,) = re.findall(r'srcdoc="([^"]*)"', widget._repr_html_())
    inline = escapes.unescape(srcdoc)
    assert embedded(inline) == embedded(saved) == [given(widget)]
    assert given(widget)["prompts"][0]["sides"][0]["out_tokens"] == list(HOSTILE)
    assert 'sandbox="allow-scripts allow-downloads"' in widget._repr_html_()


@pytest.mark.parametrize("thing", [3, Diff(3, 4), Diff([], [])], ids=["number", "diff", "empty"])
def test_what_has_no_view_is_named(thing):
    with pytest.raises(InputError, match=r"there is no view of a (int|Diff of int|Diff of list)"):
        show(thing)
