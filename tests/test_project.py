"""What stands beside the code is true: the citation is valid and the public names are all there."""

from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import lensdiff

ROOT = Path(__file__).parents[1]
NAMES = (
    *("load_model", "load_pair", "ModelPair", "Diff", "generate", "Response", "Prompt", "load_prompts", "Vocabulary"),
    *("WordVectors", "load_published", "attribute", "Attribution", "head_word_pairs", "HeadWordPairs", "verb_shift"),
    *("pair_overlap", "ov_reading", "attention", "AttentionPatterns", "attention_shift", "mlp_concepts", "MLPConcepts"),
    *("rotation", "coherence", "annotate", "output_shift", "weight_shift", "run", "Report"),
)


def test_citation_is_valid():
    cffconvert = pytest.importorskip("cffconvert")
    citation = cffconvert.Citation((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    citation.validate()  # raises where it is not
    assert citation.cffobj["cff-version"] == "1.2.0"


def test_citation_has_this_version_and_the_papers_seven_authors():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version("lensdiff")
    (paper,) = citation["references"]
    assert [a["family-names"] for a in paper["authors"]] == ["Wu", "Yao", "Chen", "Pan", "Wang", "Liu", "Yu"]
    assert paper["doi"] == "10.18653/v1/2024.naacl-long.130"


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_there(name):
    assert callable(getattr(lensdiff, name))
    assert name in dir(lensdiff)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'atribute'"):
        _ = lensdiff.atribute
