# Each target sets up .venv by itself. PYTHON chooses the interpreter (3.11 to 3.13), PIP_ARGS goes to pip.
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo flagship test test-landing browser test-browser soak docs lint clean
.DEFAULT_GOAL := demo

$(READY): setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "Python 3.11 to 3.13 is needed, this is %d.%d: make PYTHON=python3.11" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[dev,offline]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/python run_benchmark.py --model=SRGNN,LLMDMsRec --dataset=ml-100k --preset=demo $(ARGS)

# The large table (docs/howto/flagship.md). Stopped and started again it goes on. ARGS=--budget=small is the least that runs every row.
flagship: $(READY)
	$(BIN)/python run_benchmark.py suite flagship $(ARGS)

# A process for each core, each with one thread. ARGS=-n0 runs all tests in one.
test: $(READY)
	$(BIN)/python -m pytest -n logical --maxprocesses=8 --dist=worksteal $(ARGS)

# What needs proving once before anything lands: the wheel, the contracts of models on ml-100k, the published answers, and
# that processes that share a training go on after a kill. No other file is read: each process would read them all.
test-landing: $(READY)
	$(BIN)/python -m pytest -n logical --maxprocesses=8 --dist=worksteal -m landing $(ARGS) \
	    $$(grep -rl --include='test_*.py' 'mark\.landing' tests | sort)

# Debian's chromium, where there is no browser and one can be installed.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
	    command -v apt-get >/dev/null && test "$$(id -u)" = 0 && apt-get -qq update && \
	    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium >/dev/null; } || \
	    echo "no browser here and none could be installed: the report is not checked in one"

# Checks the report in a real browser.
test-browser: $(READY) browser
	$(BIN)/python -m pytest -rs -m browser tests/reporting $(ARGS)

# Broken servers, kills, full disks and two commands at once, for MINUTES; full disks need root, for a mount.
soak: $(READY)
	MINUTES=$(or $(MINUTES),10) $(BIN)/python -m pytest -n0 -m soak tests/test_soak.py $(ARGS)

$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[docs]'
	@touch $@

# The site in build/site. A warning, a broken link, or a script or style from the network fails; with --quiet, mkdocs counts no
# warnings and nothing would.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true PYTHONPATH=. $(BIN)/mkdocs build --strict
	! grep -rlE '<(script|link|img)[^>]*(src|href)="https?://' build/site --include='*.html'

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
