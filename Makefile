# Two commands do everything on a fresh machine: `make demo` and `make test`.
# BACKEND=torch|jax|tensorflow chooses the backend; each has a virtual environment of its own.

BACKEND ?= torch
PYTHON ?= python3
VENV := $(if $(filter torch,$(BACKEND)),.venv,.venv-$(BACKEND))
BIN := $(VENV)/bin
ifeq ($(filter $(BACKEND),torch jax tensorflow),)
$(error BACKEND must be torch, jax or tensorflow; got "$(BACKEND)")
endif
export KERAS_BACKEND = $(BACKEND)
# Tests start many processes, which would compile the packages each time. `--no-compile` below: a tenth of their
# files is ever imported, and is compiled then.
unexport PYTHONDONTWRITEBYTECODE

# What goes into the environment. Parity with transformers and exports are tested beside torch, data sets of
# other libraries beside TensorFlow, which is installed in its CPU build, a third of the full one.
EXTRAS_torch := torch,dev,parity,onnxruntime,openvino,serve
EXTRAS_jax := jax,dev
EXTRAS_tensorflow := tensorflow-cpu,dev,hf,litert,tfds
# On torch every test runs, in two processes of a thread each (small tensors gain nothing from more); on the
# others those marked `all_backends`. JAX takes twice as long as TensorFlow, which runs beside it.
TESTS_torch := tests -n 2 --dist loadfile --no-loadscope-reorder
TESTS_jax := tests -m all_backends -n 2 --dist loadfile
TESTS_tensorflow := tests -m all_backends

.PHONY: help setup setup-all demo test test-fast test-triton test-nncf test-ray test-all test-jax test-tensorflow lint bench docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.installed ## make the virtual environment of BACKEND (done by the other targets)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[$(EXTRAS_$(BACKEND))]'
	touch $@

setup-all: ## the three environments, side by side
	$(MAKE) --jobs=3 --output-sync=target setup-torch setup-jax setup-tensorflow

setup-torch setup-jax setup-tensorflow:
	$(MAKE) setup BACKEND=$(@:setup-%=%)

demo: setup ## train on real handwritten digits and draw what the network looks at (one to two minutes)
	$(BIN)/focalnets train --recipe digits --out runs/demo --force

test: export OMP_NUM_THREADS = 1
test: setup ## all tests on torch, or those marked all_backends with BACKEND=jax or BACKEND=tensorflow
	$(BIN)/python -m pytest $(TESTS_$(BACKEND))

test-fast: setup ## the tests that take less than a second each, on torch: for the inner loop, less than a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -m "not slow" -n 2 --dist worksteal

test-triton: setup ## the Triton kernels, which are not in the wheel, in Triton's interpreter (one to two minutes)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[triton]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/ops/test_triton.py

test-nncf: setup ## 8 bits for OpenVINO; NNCF brings scikit-learn, which slows each later start of Keras by a second
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[nncf]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/deployment/test_quantize.py

test-ray: setup ## jobs on shards on a Ray cluster that the tests start on this machine (five minutes)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[ray]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/prediction/test_ray_pool.py

test-all: ## the tests marked all_backends on JAX and TensorFlow, side by side: they mostly compile
	$(MAKE) --jobs=2 --output-sync=target test-jax test-tensorflow

test-jax test-tensorflow:
	$(MAKE) test BACKEND=$(@:test-%=%)

lint: setup ## style, mistakes, and phrases that the glossary replaces
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/prose.py

bench: setup ## a short honest benchmark of this machine; rows go to build/benchmarks
	FOCALNETS_RESULTS=build/benchmarks $(BIN)/python benchmarks/bench_start.py
	FOCALNETS_RESULTS=build/benchmarks $(BIN)/python benchmarks/bench_models.py --network focalnet_nano \
		--task training --batch 128 --contenders focalnets-$(BACKEND) plain-keras-$(BACKEND)

docs: setup ## the reference of every public name, from the docstrings, into build/docs
	$(BIN)/pdoc -o build/docs focalnets '!focalnets.ops.[jt].*_ops' '!focalnets.ops.[jt].*_processes' '!focalnets.__main__'

clean: ## remove environments, caches and builds; runs/ stays
	rm -rf .venv .venv-jax .venv-tensorflow build dist .pytest_cache .ruff_cache
