# `make` alone lists the targets.
SHELL := /bin/bash
PYTEST_WORKERS ?= 2
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-full lint bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Create .venv and install everything, pinned (about a minute with a warm package cache; then nothing)
	@scripts/setup.sh

demo: setup ## Run the main job on the embedded pair: table, figures, images and one page to open in a browser
	@echo "demo: sdvar-exp run experiment=demo"
	@start=$$SECONDS; $(BIN)/sdvar-exp run experiment=demo && \
	echo && echo "time     setup $$(cat .venv/setup.seconds) s, demo $$((SECONDS - start)) s" && \
	echo "open     file://$(CURDIR)/results/demo/report.html"

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## ruff, mypy and all tests but the long ones
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile -m "not long"

test-full: setup ## The long tests
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(PYTEST_WORKERS) -m long

bench: setup ## All benchmarks into docs/BENCHMARKS.md; OFFICIAL=FOLDER: a checkout of FoundationVision/VAR to compare with
	$(BIN)/python -m benchmarks $(if $(OFFICIAL),--official $(OFFICIAL))

clean: ## Remove .venv, caches and build leftovers; results/ stays
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
