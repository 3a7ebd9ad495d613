# Two commands for users: make demo, make test. Both make the environment first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BASE   := $(VENV)/base-ready
DEV    := $(VENV)/dev-ready
PIP    := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test conf lint browser screen clean

$(BASE): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else "attrscore needs Python 3.11 to 3.13; this is %d.%d. Say which: make PYTHON=python3.12 demo" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(DEV): $(BASE)
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps grad-cam hydra-ray-launcher
	touch $@

demo: $(BASE)
	$(BIN)/attrscore train +experiment=demo_train train.output=demo/honest.safetensors
	$(BIN)/attrscore train +experiment=demo_train dataset.carrier=background train.output=demo/background.safetensors
	$(BIN)/attrscore +experiment=demo
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

# For the tests of the report's page, which are skipped where there is no Chromium.
browser:
	@command -v chromium >/dev/null || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null \
	  || { apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium; } >/dev/null 2>&1 \
	  || echo "no Chromium could be installed: the tests of the report's page are skipped"

# For the test of napari, which is skipped where there is no virtual screen.
SCREEN := xvfb libdbus-1-3 libegl1 libfontconfig1 libgl1 libgl1-mesa-dri libxcb-cursor0 libxcb-icccm4 libxcb-image0 \
          libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-shape0 libxcb-xinerama0 libxkbcommon-x11-0
screen:
	@command -v Xvfb >/dev/null || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null \
	  || { apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $(SCREEN); } >/dev/null 2>&1 \
	  || echo "no virtual screen could be installed: the test of napari is skipped"

test: $(DEV) lint browser screen
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

clean:
	rm -rf $(VENV) demo results build dist
