# Every target does its own set-up: a virtual environment in .venv with the versions of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# PyTorch without CUDA (200 MB instead of several GB); where this index cannot be reached, pip's own is used.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# What `bench-gpu` builds with; TensorRT for RTX names no data centre GPU but the A100: there, tensorrt,tensorrt-rtx,cuda.
GPU_EXTRAS ?= tensorrt-rtx,cuda
PYTEST_ARGS ?= -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-long test-paper lint type bench bench-gpu growth heavy benefits rules regressions weights facts zoo trt-zoo trt-parse spellings clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(VENV)/.ready ## From PyTorch to verified engines: CBAM in INT8 and a Luong translator, with HTML reports
	$(BIN)/edgeattn run export_configs/cbam_digits.openvino.int8.yaml --force
	$(BIN)/edgeattn run export_configs/luong_dates.onnxruntime.fp32.yaml --force
	$(BIN)/python examples/use_bundles.py runs/cbam_digits.openvino.int8/bundle runs/luong_dates.onnxruntime.fp32/bundle
	@echo
	@echo "Open the reports:  runs/cbam_digits.openvino.int8/report.html"
	@echo "                   runs/luong_dates.onnxruntime.fp32/report.html"

test: $(VENV)/.ready ## Run every test
	$(BIN)/pytest $(PYTEST_ARGS)

test-fast: $(VENV)/.ready ## Run the tests that take seconds
	$(BIN)/pytest -m "not slow and not paper and not long and not tensorrt" $(PYTEST_ARGS)

test-long: $(VENV)/.ready ## Every way to write attention, by every exporter, opset and simplifier (most of an hour)
	$(BIN)/pytest -m long --timeout 3600 $(PYTEST_ARGS)

test-paper: $(VENV)/.ready ## Hold every model of paper size to PyTorch's numbers on every engine (half an hour, 16 GB)
	$(BIN)/pytest -m paper tests/conformance/test_models_on_engines.py

lint: $(VENV)/.ready ## Style: ruff check and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/.ready ## Types: mypy --strict
	$(BIN)/mypy

bench: $(VENV)/.ready ## Time our engines beside what you would use instead, interleaved in one process
	$(BIN)/pip install --quiet -c constraints.txt -e ".[bench]"
	$(BIN)/python -m tests.benchmarks.bench
	$(BIN)/python -m tests.benchmarks.claims --out docs/benchmarks.md

bench-gpu: ## Time our TensorRT engines on this machine's NVIDIA GPU beside PyTorch and ONNX Runtime (five minutes)
	$(PYTHON) -m venv build/gpu/venv
	build/gpu/venv/bin/pip install --quiet "torch>=2.9" "onnxruntime-gpu[cuda,cudnn]" -e ".[export,$(GPU_EXTRAS)]"
	build/gpu/venv/bin/python -m tests.benchmarks.gpu

growth: $(VENV)/.ready ## Time and memory of the rewrite stage on graphs of 1,000 to 50,000 nodes (ten minutes)
	$(BIN)/python -m tests.benchmarks.rewrite_growth

heavy: $(VENV)/.ready ## Time and memory of every command on a model of 2.4 GiB with external data (5 GB of disk)
	$(BIN)/python -m tests.benchmarks.heavy

weights: $(VENV)/.ready ## Train the shipped weights again
	$(BIN)/python -m edgeattn.training --jobs 2

facts: $(VENV)/.ready ## Measure the models' parameters and multiply-accumulates again, for `edgeattn list models`
	$(BIN)/python -m edgeattn.models._facts

benefits: $(VENV)/.ready ## Time every rewrite rule on every engine for `edgeattn explain RULE` (minutes; goes on where it stopped), then `rules`
	$(BIN)/python -m edgeattn.benefits
	$(BIN)/python -m tests.benchmarks.rules --out docs/rules.md

rules: $(VENV)/.ready ## Write docs/rules.md from the rules' cards
	$(BIN)/python -m tests.benchmarks.rules --out docs/rules.md

regressions: $(VENV)/.ready ## Count what graph rewriters break on ONNX's own test cases, and write docs/regressions.md (about ten minutes)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[bench]"
	$(BIN)/python -m tests.benchmarks.regressions --peers --out docs/regressions.md

trt-zoo: $(VENV)/.ready ## Build every zoo member for NVIDIA's RTX GPUs, without one, and write their table (half an hour; goes on where it stopped)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[tensorrt-rtx]"
	$(BIN)/python -m tests.benchmarks.tensorrt_matrix --out docs/tensorrt.md

trt-parse: $(VENV)/.ready ## Hold every INT8 graph of the zoo against TensorRT's own parser, without a GPU
	$(BIN)/pip install --quiet -c constraints.txt -e ".[tensorrt-rtx]"
	$(BIN)/pytest -m tensorrt $(PYTEST_ARGS)

zoo: $(VENV)/.ready ## Run every recipe of a trained model and write docs/zoo.md (about a quarter of an hour on two cores)
	$(BIN)/python -m tests.benchmarks.zoo --out docs/zoo.md

spellings: $(VENV)/.ready ## Recognise attention in every spelling, exporter and simplifier: docs/recognise.md
	$(BIN)/python -m tests.spellings --out docs/recognise.md

clean: ## Remove runs, caches and the environment
	rm -rf runs build dist $(VENV) .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --retries 1 --timeout 30 --extra-index-url $(TORCH_INDEX) -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e ".[all-cpu,dev]"
	@touch $@
