# The two commands of the README are `make demo` and `make test`; both set up .venv.
PYTHON ?= python3
BIN := .venv/bin
OLDEST := .venv/oldest
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# The lower bounds of pyproject.toml, installed over the environment; torch stays the newest.
OLD_PACKAGES := scikit-learn==1.6.0 numpy==1.26.0 scipy==1.11.1 joblib==1.3.0 pillow==10.3.0 \
	safetensors==0.4.0 pandas==2.1.4 threadpoolctl==3.1.0 jinja2==3.1.0
# Tests of what calls these packages: scikit-learn's checks, searches and workers, arrays and tables,
# decoding, saving, the page. One method is enough, since all share this code.
OLD_TESTS := tests/test_callbacks.py tests/test_contract.py tests/test_data.py tests/test_decoding.py \
	tests/test_metrics.py tests/test_persistence.py tests/test_sources.py \
	$(addprefix tests/test_model_selection.py::test_,with_metadata_routing \
	two_workers_find_what_one_does cross_validated_probabilities_and_scores) \
	tests/test_report.py::test_the_page_loads_nothing_and_what_users_named_is_text

.PHONY: peers dist typing demo test test-newest test-oldest test-methods test-experiments test-processes test-site test-all docs docs-fast docs-check gpu \
	gpu-cifar10 gpu-cifar10-short lint audit clean

demo: .venv/installed
	$(BIN)/python examples/quickstart.py

test: lint test-newest

test-newest: .venv/installed
	$(PYTEST)

test-oldest: $(OLDEST)/installed
	PYTHONPATH=$(OLDEST) SCIPY_ARRAY_API=0 $(PYTEST) $(OLD_TESTS) \
		-k "not Twin and not (loky and not paths)" \
		-W ignore::pytest.PytestRemovedIn10Warning  # from the decorator of scikit-learn 1.6

# What all estimators share, scikit-learn's checks among it, for the methods that `make test` leaves out.
test-methods: .venv/installed
	$(PYTEST) -m "methods and not long" tests

# Benchmarks, sweeps and studies.
test-experiments: .venv/installed
	$(PYTEST) -m "experiments and not long" tests

# Several processes train one model, others are killed. One worker, since they need the cores.
test-processes: .venv/installed
	$(BIN)/python -m pytest -m "processes and not long" tests

# Builds the site, looks at it in Chromium, and checks the files of the repository.
test-site: .venv/installed
	$(BIN)/python -m pytest -m site tests

# Everything, with many more random inputs; then scikit-learn's checks without the switch that lets SciPy
# use arrays of other libraries.
test-all: lint typing .venv/installed test-oldest
	$(PYTEST) -m "long or not long" --hypothesis-profile=long
	SCIPY_ARRAY_API=0 $(PYTEST) tests/test_contract.py

# Other packages on digits and on PEER_DATA, files (.npz) and folders, in an environment of their own; records go
# to docs/results/peers.jsonl. The same command goes on where it was cut off.
PEERS := .venv/peers
PEER_SEEDS ?= 3
PEER_LIMIT ?= 600
REPRODUCE_PEERS = $(PEERS)/bin/python -m skcc reproduce peers --seeds $(PEER_SEEDS) --limit $(PEER_LIMIT) --out docs/results

$(PEERS)/installed:
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet -e . umap-learn hdbscan clustpy evoc
	touch $@

peers: $(PEERS)/installed
	$(REPRODUCE_PEERS) --dataset digits
	for data in $(PEER_DATA); do \
		case $$data in *.npz) kind=arrays;; *) kind=folder;; esac; \
		$(REPRODUCE_PEERS) --dataset $$kind --root $$data || exit 1; \
	done

# The site, into docs/_build/html, without network; warnings are errors. docs-fast does not run the
# examples, docs-check looks at the site in Chromium.
docs: .venv/installed
	MPLBACKEND=Agg $(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

docs-fast:
	GALLERY=0 $(MAKE) docs

docs-check: .venv/installed
	$(BIN)/python -m pytest -m "long or not long" tests/test_site.py

# What needs a CUDA device, in the environment of PYTHON: tests, benchmarks, and training on CIFAR-10
# from DATA, a .npz or a folder of strips (`skcc bench gpu --help`), if it is there; in order of value,
# within GPU_MINUTES. Records go to OUT/gpu.jsonl. The same command goes on where it was cut off.
DATA ?= cifar10.npz
OUT ?= results
GPU_MINUTES ?= 30
gpu:
	$(PYTHON) -m skcc bench gpu --data "$(wildcard $(DATA))" --out $(OUT) --minutes $(GPU_MINUTES)

# CIFAR-10 from a .npz of its 60,000 images and classes, on a CUDA device. First short runs, to compare
# settings; then long runs with the best of them, SET="name=value ...". Both resume where they stopped.
# The read-out and the scores follow after the MINUTES of training.
MINUTES ?= 7.5
SET ?= max_epochs=60
ON_CIFAR10 = $(PYTHON) -m skcc reproduce cifar10 --root $(DATA) --out $(OUT) --minutes $(MINUTES)
gpu-cifar10-short:
	for change in batch_size=256 batch_size=512 augment=natural-moco; do \
		$(ON_CIFAR10) --set max_epochs=20 $$change || exit 1; \
	done
	$(PYTHON) -m skcc table $(OUT)

gpu-cifar10:
	$(ON_CIFAR10) --set $(SET)
	$(ON_CIFAR10) --method twin --set $(SET)
	$(ON_CIFAR10) --method twin --set $(SET) momentum=0.99 instance_queue=8
	$(PYTHON) -m skcc table $(OUT)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive skcc

# Types of the public API, as code of users meets them; the first run takes a minute.
typing: .venv/installed
	$(BIN)/python -m mypy

# The sdist and the wheel, into dist/.
dist: .venv/installed
	rm -rf dist
	$(BIN)/python -m build --no-isolation

# Known vulnerabilities of the installed packages. It needs PyPI's database, so `make test` does not
# include it. The last line says whether the database could be reached.
audit: .venv/installed
	@found=$$($(BIN)/pip-audit --local --skip-editable --progress-spinner off 2>&1); status=$$?; \
	echo "$$found"; \
	if echo "$$found" | grep -qE "could not be audited|ConnectionError|Max retries|Failed to"; then \
		echo "make audit: the database could not be reached for some or all packages;" \
			"the list above is incomplete"; exit 1; \
	elif [ $$status -ne 0 ]; then echo "make audit: there are known vulnerabilities"; exit 1; \
	else echo "make audit: no known vulnerabilities"; fi

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

$(OLDEST)/installed: .venv/installed Makefile
	rm -rf $(OLDEST)
	$(BIN)/python -m pip install --quiet --no-warn-conflicts --target $(OLDEST) $(OLD_PACKAGES)
	touch $@

clean:
	rm -rf .venv .pytest_cache .hypothesis .mypy_cache .ruff_cache dist docs/_build docs/api docs/gallery
