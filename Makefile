# make demo | make test | make test-slow | make test-jax | make lint | make torture-inputs | make bench | make clean
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := demo
STAMP  := $(VENV)/.installed

.PHONY: help setup demo test test-slow test-jax lint torture-inputs bench clean

help:
	@echo 'make setup      a virtual environment in $(VENV) with everything'
	@echo 'make demo       phantoms, preprocessing, verification, a short training, its report, a search; all below $(DEMO)/'
	@echo 'make test       linters and tests'
	@echo 'make test-slow  the tests that take minutes'
	@echo 'make test-jax   the trainer tests once more, with JAX instead of TensorFlow'
	@echo 'make torture-inputs  the test images of installed packages, compared with other decoders; writes docs/formats.md'
	@echo 'make bench      the figures of docs/performance.md (IMAGES=DIR; without it the phantoms of make demo)'
	@echo 'make clean      remove what the above made'

setup: $(STAMP)

# uv installs in seconds what pip installs in minutes; pip fetches it
$(STAMP): setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[all,test]'
	touch $@

demo: $(STAMP)
	rm -rf $(DEMO)
	$(BIN)/cxr phantom --to $(DEMO)/images --patients 160 --seed 1 --duplicates 2 --encoding-leak
	$(BIN)/cxr preprocess --input $(DEMO)/images --output $(DEMO)/data --sizes 512,256 --val-fraction 0.2
	$(BIN)/cxr verify $(DEMO)/data --deep
	$(BIN)/cxr inspect $(DEMO)/data --save-grid $(DEMO)/contact-sheet.png
	$(BIN)/cxr bench $(DEMO)/data --image-size 512 --seconds 1
	$(BIN)/cxr train --data $(DEMO)/data --run $(DEMO)/runs/short --preset robust --augment light --batch-size 16
	$(BIN)/cxr evaluate --run $(DEMO)/runs/short --split test
	$(BIN)/cxr predict --run $(DEMO)/runs/short $(DEMO)/images/test --output $(DEMO)/predictions.csv
	$(BIN)/cxr tune --data $(DEMO)/data --project $(DEMO)/search --workers 2 --oracle random --max-trials 4 --epochs 3 \
		--narrow model=mlp,cnn3,cnn-separable --narrow image_size=64,96 --narrow blocks=3,4 --fix batch_size=16
	@echo
	@echo "look at $(DEMO)/contact-sheet.png, and at $(DEMO)/data: manifest.json, audit.json, full/, 512/, 256/"
	@echo "open $(DEMO)/runs/short/evaluation/test/report.html in a browser"
	@echo "and $(DEMO)/search/report/index.html, of the search"
	@echo "and all of it in TensorBoard: $(BIN)/cxr board $(DEMO)"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# a file stays in one process, and files are dealt out in order: by default one of few, long tests would come last
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

test: lint
	$(BIN)/pytest -m "not slow" $(PARALLEL)

test-slow: $(STAMP)
	$(BIN)/pytest -m slow

test-jax: $(STAMP)
	KERAS_BACKEND=jax $(BIN)/pytest -m "not slow" $(PARALLEL) tests/trainer

torture-inputs: $(STAMP)
	$(BIN)/python benchmarks/torture_inputs.py --write docs/formats.md

bench: $(STAMP)
	$(BIN)/python benchmarks/encodings.py $(if $(IMAGES),--images $(IMAGES)) --json benchmarks/results/encodings.json
	$(BIN)/python benchmarks/preprocess.py $(if $(IMAGES),--images $(IMAGES)) --json benchmarks/results/preprocess.json
	$(BIN)/python benchmarks/stream.py --images $(or $(IMAGES),$(DEMO)/images) --json benchmarks/results/stream.json
	$(BIN)/python benchmarks/stream.py --images $(or $(IMAGES),$(DEMO)/images) --memory \
		--json benchmarks/results/stream-memory.json
	$(BIN)/python benchmarks/equal_footing.py --images $(or $(IMAGES),$(DEMO)/images) \
		--json benchmarks/results/equal_footing.json
	$(BIN)/python benchmarks/opening.py --json benchmarks/results/opening.json
	$(BIN)/python benchmarks/tables.py --json benchmarks/results/tables.json
	$(BIN)/python benchmarks/tune.py --load --data $(DEMO)/data --json benchmarks/results/tune.json
	$(BIN)/python benchmarks/augment.py --json benchmarks/results/augment.json

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
