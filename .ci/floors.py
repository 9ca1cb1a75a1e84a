"""Print pip's constraints for the lowest versions that pyproject.toml allows: `name>=1.2,<3` gives `name==1.2`.

torch is left out: the Makefile says which one every environment has.
"""

import re
import tomllib
from itertools import chain
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
for requirement in chain(project["dependencies"], *project["optional-dependencies"].values()):
    name, floor = re.match(r"([\w.-]+)>=([\w.]+)", requirement).groups()
    if name != "torch":
        print(f"{name}=={floor}")
