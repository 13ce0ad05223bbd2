# The developer's manual in one file: `make help` lists what there is.
PYTHON ?= python3
BIN := .venv/bin
KERAS ?= .venv-keras/bin/python
SOURCES := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help train test test-all check docs data parity benchmarks reproduce soak fuzz audit lock licences clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

train: .venv/installed  ## install, get CIFAR-10, train the default recipe; TORCH_INDEX=URL takes PyTorch from that index
	$(BIN)/cifarlab train

# Two workers of one thread each do more than one worker of two.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: .venv/dev check data  ## everything that CI checks: lint, format, types, imports, docs, tests on real CIFAR-10
	$(PYTEST) -m "not slow"

test-all: .venv/dev check data  ## the checks of `make test` and the tests that take long
	$(PYTEST)

# Strict: a broken link or a missing reference fails. Nothing is fetched.
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

check: .venv/dev  ## the quick checks alone: lint, format, types, imports, documentation site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(SITE)

data: .venv/installed  ## get CIFAR-10 into the cache
	$(BIN)/cifarlab data get

docs: .venv/dev  ## write the generated pages and the notebook, and build the documentation into site/
	$(BIN)/python docs/write_commands.py
	$(BIN)/python docs/write_recipe_keys.py
	$(BIN)/python docs/write_networks.py
	$(BIN)/python docs/write_data_sets.py
	$(BIN)/jupytext --quiet --to ipynb notebooks/story.py
	$(SITE)

parity: .venv/dev $(if $(filter .venv-keras/%,$(KERAS)),.venv-keras/installed)  ## compare imports with real Keras, installed for this; KERAS=PYTHON takes one that is there
	$(BIN)/python tests/keras/parity.py --keras-python $(KERAS)

benchmarks: .venv-benchmarks/installed  ## every figure of docs/internals/speed.md, in an environment of its own; hours on two cores
	.venv-benchmarks/bin/cifarlab bench
	.venv-benchmarks/bin/python benchmarks/versus_keras.py
	.venv-benchmarks/bin/python benchmarks/versus_pytorch_cifar.py
	.venv-benchmarks/bin/python benchmarks/ablations.py keras6 fast94
	.venv-benchmarks/bin/python benchmarks/inference.py
	.venv-benchmarks/bin/python benchmarks/time_to_accuracy.py
	.venv-benchmarks/bin/python benchmarks/versus_speedrun.py
	.venv-benchmarks/bin/python benchmarks/versus_keras.py --accuracy

reproduce: .venv/dev data  ## every published figure over seeds, and docs/results.md anew; days on two cores, goes on where it stopped
	$(BIN)/cifarlab reproduce relabel
	$(BIN)/cifarlab reproduce lenet5-wide
	$(BIN)/cifarlab reproduce lenet5
	$(BIN)/cifarlab reproduce keras4 --seeds 3
	$(BIN)/cifarlab reproduce keras6 --seeds 3
	for name in ygnet firststeps allcnn-c allcnn-c-augmented; do $(BIN)/cifarlab reproduce $$name --seeds 1 --minutes 180; done
	$(BIN)/python docs/write_results.py runs/reproduce/*/records.json

soak: .venv/dev data  ## kill trainings a thousand times and at every write, and load the board; an hour or two
	$(BIN)/python -m pip install -q -r tests/soak/requirements.txt
	$(BIN)/python tests/soak/soak.py cuts
	$(BIN)/python tests/soak/soak.py kills --count 1000
	$(BIN)/python tests/soak/schema.py
	$(BIN)/cifarlab train lenet5 --set epochs=2 --runs runs/soak --name small --force
	$(BIN)/python tests/soak/load.py --runs runs/soak --target small

fuzz: .venv/dev  ## ten minutes of mutated files for each reader; an hour and a half
	$(BIN)/python -m pip install -q -r tests/soak/requirements.txt
	for kind in pictures weights checkpoints tars arrays tables texts keras; do $(BIN)/python tests/soak/fuzz.py $$kind || exit 1; done

audit: .venv/audit  ## known holes of the pinned versions, by pip-audit, which asks the network
	.venv-audit/bin/pip-audit --no-deps --disable-pip -r constraints.txt

lock: .venv/audit  ## write .ci/locked.txt and benchmarks/constraints.txt; UV_FIND_LINKS names a folder with the CPU build of PyTorch
	.venv-audit/bin/uv pip compile pyproject.toml --extra dev -c constraints.txt --generate-hashes --no-emit-package torch \
		--no-annotate --no-header --quiet -o .ci/locked.txt
	grep -v '^h5py==' constraints.txt | .venv-audit/bin/uv pip compile pyproject.toml benchmarks/requirements.txt -c - \
		--no-annotate --no-header --quiet | sed 's/+cpu$$//' > benchmarks/constraints.txt  # TensorFlow forbids our h5py

licences: .venv/dev .venv/audit  ## the licence of every package that is installed
	.venv-audit/bin/pip-licenses --python $(BIN)/python --format markdown --order license

clean:  ## remove the virtual environments, the site and caches; runs and data stay
	rm -rf .venv .venv-audit .venv-benchmarks .venv-keras site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/installed: $(SOURCES)
	test -d .venv || $(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install -q -c constraints.txt --no-deps --index-url $(TORCH_INDEX) torch)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

.venv/dev: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

.venv/audit: Makefile
	test -d .venv-audit || $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install -q pip-audit pip-licenses uv
	mkdir -p .venv && touch $@

.venv-benchmarks/installed: pyproject.toml benchmarks/constraints.txt benchmarks/requirements.txt
	test -d .venv-benchmarks || $(PYTHON) -m venv .venv-benchmarks
	.venv-benchmarks/bin/python -m pip install -q -c benchmarks/constraints.txt -e . -r benchmarks/requirements.txt
	touch $@

.venv-keras/installed: tests/keras/requirements.txt
	test -d .venv-keras || $(PYTHON) -m venv .venv-keras
	.venv-keras/bin/python -m pip install -q -r $<
	touch $@
