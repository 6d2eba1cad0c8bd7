# Two commands do everything on a fresh machine: `make serve` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup serve test bench readiness lint soak clean

setup: $(STAMP) examples/credit/artifacts/model.joblib

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[chat,sklearn,onnx,mlflow,postgres,parquet,otel,notify,dev]'
	touch $@

examples/credit/artifacts/model.joblib: $(STAMP) examples/credit/train.py examples/credit/service.py
	$(BIN)/python examples/credit/train.py

serve: setup
	$(BIN)/nightproof serve examples/credit

# Three processes on two cores: tests wait for disks, pauses and each other's servers a third of their time.
test: setup
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m 'not soak' $(ARGS)

# `make soak SECONDS=1800` breaks the example at random for so long; without SECONDS it runs the long tests.
soak: setup
ifdef SECONDS
	$(BIN)/nightproof drill examples/credit --soak $(SECONDS)s $(ARGS)
else
	$(BIN)/python -m pytest -m soak --timeout=3600 $(ARGS)
endif

bench: setup
	$(BIN)/python -m benchmarks $(ARGS)

# The same faults on Nightproof and its neighbours; installs those, and takes half an hour. Writes docs/readiness.md.
readiness: setup
	$(BIN)/python -m benchmarks.readiness $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .nightproof examples/credit/artifacts examples/credit/golden.jsonl examples/credit/reference.parquet
