# `make demo` shows masks, `make test` runs every check and test. Both make .venv first; the second time that is quick.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
EXTRA ?= cpu
BIN := .venv/bin

.PHONY: help .venv demo test lint unit train-demo bench bench-check bench-ways soak bench-cache bench-drafts bench-evaluate bench-scoring bench-vision bench-gpu test-gpu trt-build-check screenshot settings-table constraints

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

bench: .venv ## Measure side by side with the reference and others, a JSON line a figure (ARGS="--rounds 5 --concentrate tap")
	@$(BIN)/python -m loadtests.bench $(ARGS)

bench-check: .venv ## Fail if a ratio is worse than the kept one by more than its noise (ARGS="--record 5": keep them)
	@$(BIN)/python -m loadtests.bench --rounds 2 --requests 8 $(if $(findstring --record,$(ARGS)),,--check) $(ARGS)

bench-ways: .venv ## Weigh other ways to run the language model by their machine time (ARGS="--server tap --server ngram")
	@$(BIN)/python -m loadtests.bench.ways $(ARGS)

bench-drafts: .venv ## What drafts and second masks cost a running server (ARGS="--url http://127.0.0.1:8000")
	@$(BIN)/python -m loadtests.drafts $(ARGS)

bench-evaluate: .venv ## Hold the evaluation's throughput against the load tester's, on a running server (ARGS="--users 8")
	@$(BIN)/python -m loadtests.saturation $(ARGS)

bench-scoring: .venv ## Measure how long the evaluation takes to score 5,000 results, without a server
	@$(BIN)/python -m loadtests.scoring $(ARGS)

soak: .venv ## Overload a gateway for 10 minutes and report what became of it (ARGS="--minutes 1")
	@$(BIN)/python -m loadtests.soak $(ARGS)

settings-table: .venv ## Make the README's table of settings from the code
	@$(BIN)/r2sm config --write README.md

train-demo: .venv ## Train the demo bundle's models (ARGS="--out runs/demo --stage towers --minutes 15")
	@$(BIN)/python -m engines.demo.train $(ARGS)

bench-cache: .venv ## Measure what a known image saves and what a hit in Redis costs (ARGS="--images 30")
	@$(BIN)/python -m loadtests.cache $(ARGS)

bench-vision: .venv ## Measure the vision runtimes on this CPU, as ratios (ARGS="--vit-b")
	@$(BIN)/python -m loadtests.vision $(ARGS)

bench-gpu: .venv ## Measure models of published sizes on an NVIDIA GPU, a JSON line a figure (ARGS="--part vision")
	@$(BIN)/python -m loadtests.gpu $(ARGS)

test-gpu: .venv ## Run the tests that need an NVIDIA GPU
	@$(BIN)/pytest -m gpu

trt-build-check: .venv ## Have NVIDIA's own builder compile the exported graphs, without a GPU (ARGS="--bundle DIR")
	@$(BIN)/python -m tests.nvidia.build_check $(ARGS)

screenshot: .venv ## Take the README's picture of the playground, on the bundle that ships
	@$(BIN)/python -m deploy.screenshot $(ARGS)

constraints: ## Resolve the dependencies afresh and pin what came out (EXTRA=cpu or gpu)
	@deploy/pin_constraints.sh $(PYTHON) $(EXTRA)
