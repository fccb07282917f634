# make verify   install into .venv, fetch the embedded model once, check every fast claim
# make test     all that CI runs: lint, types, specs, the suite's own slow checks
# make idle     measurements that need an idle machine for an hour
# make sweep    every architecture of mlx-lm against every law
# make releases   sweeps with the last eight releases of mlx-lm, for docs/releases.md (an hour)
# make oracle   every architecture that transformers has, too, against it (takes PyTorch)
# make update-snapshots   record facts anew; read the diff before you commit it

PYTHON ?= python3
BIN := .venv/bin
EXTRAS ?= blas,report

.PHONY: verify test lint idle sweep releases oracle update-snapshots clean

verify: .venv/installed-$(EXTRAS)
	$(BIN)/pytest specs/ -n 2 --report report.html --report results.json

test: EXTRAS = blas,report,serving,browser,dev
test: lint
	$(BIN)/pytest specs/ --prove -n 2 --dist worksteal
	$(BIN)/pytest specs/ -m "slow or browser" --prove -n 2 --dist worksteal

lint: EXTRAS = blas,report,serving,browser,dev
lint:
	$(MAKE) .venv/installed-$(EXTRAS) EXTRAS=$(EXTRAS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

idle: .venv/installed-$(EXTRAS)
	$(BIN)/pytest specs/ -m idle --report idle.html --report idle.json

sweep: .venv/installed-$(EXTRAS)
	$(BIN)/pytest specs/ --architectures --report sweep.html --report sweep.json

releases: EXTRAS = blas,report,serving,browser,dev
releases:
	$(MAKE) .venv/installed-$(EXTRAS) EXTRAS=$(EXTRAS)
	$(BIN)/nox -s releases

oracle: EXTRAS = blas,report,parity
oracle:
	$(MAKE) .venv/installed-$(EXTRAS) EXTRAS=$(EXTRAS)
	$(BIN)/pytest specs/test_11_oracle.py --architectures --oracle transformers --report report.html

update-snapshots: .venv/installed-$(EXTRAS)
	$(BIN)/pytest specs/ --snapshot-update

.venv/installed-%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11: name a newer one, make verify PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

clean:
	rm -rf .venv .nox .releases .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis .benchmarks results.json report.html idle.json idle.html sweep.json sweep.html
