# `make demo` shows masks, `make test` runs every check and test. Both make .venv first; the second time that is quick.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
EXTRA ?= cpu
BIN := .venv/bin

.PHONY: help .venv demo test lint unit bench-drafts train-demo constraints

help: ## Say what there is to make
	@grep -hE '^[.a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([.a-z-]+):.*## /\1: /'

.venv: ## Make the environment and install everything into it (EXTRA=gpu for CUDA)
	@$(PYTHON) deploy/setup_venv.py --extra $(EXTRA)

demo: .venv ## Serve on 127.0.0.1:8000 and segment sample scenes (ONCE=1: stop after that)
	@$(BIN)/r2sm demo $(if $(ONCE),--once)

test: lint ## Run every check and every test, those on real vLLM too
	@$(BIN)/pytest

unit: .venv ## Run the tests that need no vLLM server
	@$(BIN)/pytest -m "not vllm"

lint: .venv ## Check style, types and import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

bench-drafts: .venv ## What drafts and second masks cost a running server (ARGS="--url http://127.0.0.1:8000")
	@$(BIN)/python -m loadtests.drafts $(ARGS)

train-demo: .venv ## Train the demo bundle's models (ARGS="--out runs/demo --stage towers --minutes 15")
	@$(BIN)/python -m engines.demo.train $(ARGS)

constraints: ## Resolve the dependencies afresh and pin what came out (EXTRA=cpu or gpu)
	@deploy/pin_constraints.sh $(PYTHON) $(EXTRA)
