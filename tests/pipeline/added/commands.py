"""Adds the analysis beside it to lensdiff's own, and does the commands that it is given, as JSON on standard input."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout

from embedding_norms import ANALYSIS

import lensdiff.analyses

lensdiff.analyses.ANALYSES = (*lensdiff.analyses.ANALYSES, ANALYSIS)  # before anything else is imported

from lensdiff.cli import main  # noqa: E402

ran = []
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    ran.append([code, out.getvalue(), err.getvalue()])
sys.stdout.write(json.dumps(ran))
