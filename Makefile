# Every target makes the environment that it needs; only Python 3.11+ and make must be there.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FRAMEWORKS ?= .venv-frameworks
TORTURE ?= .venv-torture
OLDEST ?= .venv-oldest
ENGINES ?= .venv-engines
WHEEL_SOURCES := pyproject.toml hatch_build.py README.md ci/man_page.py $(shell find ckptclamp -type f -not -path '*/__pycache__/*')

.PHONY: help demo test lint types unit test-engines oldest sdist lock docs links examples bench fixtures zoo parity torture sanitize clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

# The tools of the project, and the built wheel: what is tested is what is shipped.
$(VENV)/tools: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1' build
	$(BIN)/pip install --quiet --group test --group lint
	@touch $@

$(VENV)/installed: $(VENV)/tools $(WHEEL_SOURCES)
	@rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist . >/dev/null
	$(BIN)/pip install --quiet dist/*.whl
	$(BIN)/pip install --quiet --force-reinstall --no-deps dist/*.whl
	@touch $@

demo: $(VENV)/installed ## Audit a model that violates its constraints, fix it, audit the copy
	@BIN=$(BIN) sh fixtures/demo.sh

test: lint types unit ## Lint, type-check and test the built wheel

lint: $(VENV)/tools ## Check style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed ## Check types
	$(BIN)/mypy

# Some tests take minutes, most take milliseconds: who has nothing left to do takes from others.
PARALLEL ?= -n auto --dist worksteal

unit: $(VENV)/installed ## Run the tests alone
	$(BIN)/pytest $(PARALLEL) $(PYTEST_ARGS)

$(ENGINES)/installed: $(VENV)/installed
	$(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/pip install --quiet --upgrade 'pip>=25.1'
	$(ENGINES)/bin/pip install --quiet --group test "$$(ls dist/*.whl)[dask,ray,remote]"
	@touch $@

test-engines: $(ENGINES)/installed ## Run the tests of executors with Dask and Ray (240 MB)
	$(ENGINES)/bin/pytest tests/engine/test_elsewhere.py tests/engine/test_clusters.py tests/remote/test_executors.py $(PYTEST_ARGS)

# The lower bounds of pyproject.toml, each pinned.
OLDEST_PINS = $(shell sed -n '/^dependencies/,/^]/s/.*"\(.*\)>=\(.*\)".*/\1==\2/p' pyproject.toml)

$(OLDEST)/installed: $(VENV)/installed
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --upgrade 'pip>=25.1'
	$(OLDEST)/bin/pip install --quiet --group test $(OLDEST_PINS) dist/*.whl
	@touch $@

oldest: $(OLDEST)/installed ## Run the tests with the oldest dependencies that are promised
	$(OLDEST)/bin/pytest $(PARALLEL) $(PYTEST_ARGS)

# A packager has nothing but the archive: some tests run from it, against the wheel built from it.
SDIST_TESTS ?= tests/test_readme.py tests/test_rooms.py tests/test_packaging.py tests/spec tests/fixtures/test_expected.py

sdist: $(VENV)/tools ## Build sdist and wheel in dist, and run tests from the unpacked sdist
	@rm -rf dist build/sdist
	$(BIN)/python -m build --outdir dist . >/dev/null
	@mkdir -p build/sdist
	tar -xzf dist/ckptclamp-*.tar.gz -C build/sdist --strip-components 1
	$(PYTHON) -m venv build/sdist/.venv
	build/sdist/.venv/bin/pip install --quiet --upgrade 'pip>=25.1'
	cd build/sdist && .venv/bin/pip install --quiet --group test . && .venv/bin/pytest -q $(SDIST_TESTS)

# Every version and digest of what the action and the image install.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

lock: $(VENV)/tools ## Resolve the lock files of the action and the image anew
	$(BIN)/pip install --quiet uv
	$(LOCK) pyproject.toml --output-file ci/requirements.txt
	$(LOCK) ci/build-requirements.in --output-file ci/build-requirements.txt

# The generator is a tool of the site alone; ckptclamp never depends on it.
$(VENV)/docs: $(VENV)/installed
	$(BIN)/pip install --quiet --group docs
	@touch $@

SPHINX = $(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going --nitpicky docs

docs: $(VENV)/docs ## Build the site in build/site; a warning or a dead link is a failure
	$(SPHINX) build/site
	$(BIN)/python docs/_links.py build/site README.md CHANGELOG.md

links: $(VENV)/docs ## Ask other sites whether what is linked to is there (wants a network)
	$(SPHINX) -b linkcheck build/links

examples: $(VENV)/installed ## Write into the documents what their examples print now
	$(BIN)/python -m tests.docs.examples

bench: $(VENV)/installed ## Measure against the yardsticks (takes minutes; wants a quiet machine)
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

# Real Keras, tf_keras and PyTorch, pinned: for making files and comparing, never for the tests.
$(FRAMEWORKS)/installed: fixtures/requirements.txt fixtures/requirements-alone.txt $(VENV)/installed
	$(PYTHON) -m venv $(FRAMEWORKS)
	$(FRAMEWORKS)/bin/pip install --quiet --upgrade pip
	$(FRAMEWORKS)/bin/pip install --quiet -r fixtures/requirements.txt dist/*.whl
	$(FRAMEWORKS)/bin/pip install --quiet --no-deps -r fixtures/requirements-alone.txt
	@touch $@

fixtures: $(FRAMEWORKS)/installed ## Make the committed fixtures anew with real frameworks
	$(FRAMEWORKS)/bin/python fixtures/make_fixtures.py
	$(FRAMEWORKS)/bin/python fixtures/record_parity.py
	$(FRAMEWORKS)/bin/python fixtures/radial/make_radial.py
	$(FRAMEWORKS)/bin/python fixtures/shared/make_shared.py
	$(FRAMEWORKS)/bin/python fixtures/quantised/make_quantised.py
	$(FRAMEWORKS)/bin/python fixtures/quantised/load_copies.py
	$(FRAMEWORKS)/bin/python fixtures/tolerance/make_tolerance.py
	$(FRAMEWORKS)/bin/python fixtures/sets/make_sets.py
	$(FRAMEWORKS)/bin/python fixtures/layouts/make_layouts.py
	$(FRAMEWORKS)/bin/python fixtures/effective/make_effective.py
	$(FRAMEWORKS)/bin/python fixtures/effective/load_copies.py
	$(FRAMEWORKS)/bin/python fixtures/hugging_face/make_hugging_face.py

zoo: $(FRAMEWORKS)/installed ## Every constrained layer in every layout, checked against real Keras
	$(FRAMEWORKS)/bin/python fixtures/zoo/make_zoo.py

parity: $(FRAMEWORKS)/installed ## Compare live with Keras on random cases, and load copies with transformers
	$(FRAMEWORKS)/bin/python fixtures/parity_live.py
	$(FRAMEWORKS)/bin/python fixtures/hugging_face/load_copies.py

# Coverage-guided fuzzing has no wheel for every Python; without it the rest still runs.
$(TORTURE)/installed: $(VENV)/installed
	$(PYTHON) -m venv $(TORTURE)
	$(TORTURE)/bin/pip install --quiet --upgrade 'pip>=25.1'
	$(TORTURE)/bin/pip install --quiet --group test dist/*.whl
	-$(TORTURE)/bin/pip install --quiet 'atheris>=3'
	@touch $@

torture: $(TORTURE)/installed ## Mutants, faults, kills, load and fuzzing (takes hours; see torture/)
	PYTHON=$(TORTURE)/bin/python sh torture/all.sh

# From the source tree, whose own library of kernels is loaded before the installed one.
SANITIZED := ckptclamp/engine/kernels/native/lib/kernels.so
sanitize: $(VENV)/installed ## Run the compiled kernels under AddressSanitizer and UndefinedBehaviorSanitizer
	$(BIN)/python ckptclamp/engine/kernels/native/build.py -g -fsanitize=address,undefined -fno-sanitize-recover=all
	LD_PRELOAD="$$(cc -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=. \
		$(BIN)/pytest $(PYTEST_ARGS) tests/engine/test_kernels.py tests/engine/test_codes.py tests/engine/test_in_file.py tests/engine/test_widening.py tests/engine/test_moving.py; \
		status=$$?; rm -f $(SANITIZED); exit $$status

clean: ## Remove everything that was built
	rm -rf $(VENV) $(FRAMEWORKS) $(OLDEST) $(ENGINES) $(TORTURE) docs/reference dist build demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
