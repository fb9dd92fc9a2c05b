# `make demo` and `make test` set up what they need. The environment is .venv, pinned by constraints.txt.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip --disable-pip-version-check -q
STAMP := $(VENV)/.ready

# Ceph RGW is the real S3 of the tests; iproute2 makes hosts of network namespaces.
APT := ceph-mon ceph-osd radosgw ceph-common iproute2 util-linux

.PHONY: setup demo test test-deps lint format bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/preflight.sh data_pipeline/pixels/_roi.c
	@PYTHON=$(PYTHON) sh scripts/preflight.sh
	@echo "setting up $(VENV) (some minutes the first time)"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e '.[demo,dev]'
	$(PIP) install -c constraints.txt --no-deps timm
	@touch $@

demo: setup
	$(VENV)/bin/mixer demo

test: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest

# Without it the tests that want these parts skip, and say so.
test-deps:
	@if [ "$$(id -u)" != 0 ]; then echo "test-deps: not root, so nothing is installed; tests that want $(APT) will skip"; \
	elif ! command -v apt-get >/dev/null; then echo "test-deps: no apt-get here; tests that want $(APT) will skip"; \
	else apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(APT); fi

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Each writes benchmarks/results/*.json. The chaos schedules are run by hand, with a seed.
bench: setup
	@for file in $$(grep -l '^if __name__' benchmarks/*/*.py | grep -v '/chaos.py$$'); do \
	module=$$(echo "$${file%.py}" | tr / .); echo "== $$module"; $(VENV)/bin/python -m "$$module" || exit 1; done

clean:
	rm -rf $(VENV) mixer-demo build dist *.egg-info data_pipeline/pixels/*.so
