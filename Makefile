# Every target makes the environment it needs; nothing has to be done first.
PYTHON ?= python3
PROFILE ?= mini
# A machine without a GPU can do with the small build of torch:
#   make study TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help env study photos report demo lab test lint references recording bench clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(STAMP) ## Create .venv and install the study in it

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is not Python 3.11 or newer; name one with make PYTHON=python3.11" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "make: $(PYTHON) cannot make environments; install its venv package (python3-venv)" >&2; \
	  exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_INDEX) -e '.[lab,test]'
	touch $@

study: $(STAMP) ## Run the whole study on the embedded data, offline, and write its report
	$(BIN)/blcf run --profile $(PROFILE)

photos: $(STAMP) ## Run it on real photographs (BLCF_DATA and BLCF_WEIGHTS name their folders)
	@test -n "$$BLCF_DATA" && test -n "$$BLCF_WEIGHTS" || { \
	  echo "make: set BLCF_DATA to the folder of the photographs' sets and BLCF_WEIGHTS to that of the weights" >&2; \
	  exit 1; }
	$(BIN)/blcf run --profile photos

report: $(STAMP) ## Write the HTML report of what has been run
	$(BIN)/blcf report --profile $(PROFILE)

demo: $(STAMP) ## Open the explorer in a browser, on the embedded data
	$(BIN)/blcf demo --profile $(PROFILE)

lab: $(STAMP) ## Open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

# A process a core with one thread: most tests are too small for two. The tests of a file share one.
test: lint ## Check the style and run every test
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 \
	  --dist loadfile --no-loadscope-reorder

lint: $(STAMP) ## Check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

references: $(STAMP) ## Execute the notebooks on `smoke` anew and store them for the nbval test
	rm -rf build/references
	BLCF_CACHE=build/references/cache $(BIN)/blcf run --profile smoke --results build/references --no-report
	mkdir -p tests/references
	cp build/references/smoke/notebooks/*.ipynb tests/references/
	$(BIN)/python tests/references/shrink.py

recording: $(STAMP) ## Take screenshots of the demo and the report: build/screenshots (needs Chromium)
	$(BIN)/python -m pytest -q tests/apps/test_recording.py tests/apps/test_demo.py

bench: $(STAMP) ## Run the benchmarks (minutes; on a quiet machine)
	for script in extraction kmeans encoding search reranking memory saliency aggregation finetuning explorer cluster scaling gpu; do \
	  $(BIN)/python benchmarks/$$script.py || exit 1; done

clean: ## Remove the environment and what tools leave behind; results and artefacts stay
	rm -rf $(VENV) *.egg-info build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
