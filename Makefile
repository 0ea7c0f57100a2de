# SPDX-License-Identifier: Apache-2.0
# All that a user or a developer does, each from a bare machine; `make` lists it. It needs make, a C++ compiler and
# Python 3.11 to 3.13 with its headers and venv (Debian: make g++ python3-dev python3-venv); CONTRIBUTING.md says more.

PYTHON ?= python3
ARGS ?=
SBOM ?= sbom.cdx.json
IMAGE ?= mnist-tfx
TARGET ?= cpu

# uv and the Python that it was made from are in .uv, the environment is in .venv. A stamp says that the environment
# holds what is locked, so that nothing is done twice.
UV := .uv/bin/uv
VENV := .venv/bin/python
RUN_STAMP := .venv/run.stamp
DEV_STAMP := .venv/dev.stamp
JAX_STAMP := .venv-jax/stamp
# What is built from source is built with locked tools too.
SYNC = $(UV) pip $(1) --python $(VENV) --require-hashes --build-constraints requirements/build.lock \
	--require-build-hashes --preview-features build-dependency-hashes

# TFX and Beam start many processes that import thousands of modules: compiled once, each starts in half the time.
export UV_COMPILE_BYTECODE ?= 1
# As pip does, uv trusts the certificates that the system trusts and asks the package index that pip is configured for.
export UV_SYSTEM_CERTS ?= 1
USE_PIP_INDEX = index="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$(.uv/bin/python -m pip config get global.index-url \
	2>/dev/null)}}"; if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$$index"; fi
# A process of tests for each core, but no more than four, as a run needs some GB of memory; a file's tests share its
# fixtures, so they stay together. Files start in order, so those of the folders of whole runs, the longest, come first.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run tensorboard test test-quick bench models lint lock lock-gpu sbom audit image accept clean

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile
	@echo 'Options: ARGS="…" goes to the runner or to pytest, PYTHON=python3.12 names the Python that .venv is made from.'

setup: $(RUN_STAMP) ## Put what the pipeline needs into .venv, as locked
	@echo ".venv is ready"

run: $(RUN_STAMP) ## Run the whole pipeline on this machine (make run ARGS="--data-dir DIR")
	@$(VENV) runner_local.py $(ARGS)

tensorboard: $(RUN_STAMP) ## Open TensorBoard on all runs below output/ (ARGS="--port 6007")
	@.venv/bin/tensorboard --logdir output/pipeline_root --host 127.0.0.1 $(ARGS)

test: $(DEV_STAMP) $(JAX_STAMP) ## Run all tests (MNIST_DATA_DIR=DIR adds those on the real files)
	@$(VENV) -m pytest $(SIDE_BY_SIDE) $(ARGS)

test-quick: $(DEV_STAMP) $(JAX_STAMP) ## Run all tests but the slow ones
	@$(VENV) -m pytest $(SIDE_BY_SIDE) -m "not slow" $(ARGS)

bench: $(RUN_STAMP) ## Measure the pipeline against its floors on MNIST's files (DATA_DIR=DIR; a quarter of an hour)
	@$(VENV) -m benchmarks.bench $(DATA_DIR) $(ARGS)

models: $(RUN_STAMP) ## Train every model with three seeds on MNIST's files, for docs/models.md (DATA_DIR=DIR; an hour)
	@$(VENV) -m benchmarks.models $(DATA_DIR) $(ARGS)

lint: $(DEV_STAMP) ## Check style and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

lock: $(UV) ## Resolve the dependencies anew and write the files of requirements/
	@$(USE_PIP_INDEX); $(UV) lock --upgrade
	@$(call EXPORT,requirements/run.lock,what the pipeline needs,--no-dev)
	@$(call EXPORT,requirements/dev.lock,what tests and linting add to requirements/run.lock,--only-group dev)
	@$(call EXPORT,requirements/jax.lock,what the tests of the networks on JAX add to requirements/run.lock,--only-group jax \
		$(patsubst %,--no-emit-package %,ml-dtypes numpy opt-einsum scipy))
	@$(call EXPORT,requirements/build.lock,uv and what builds the packages that have no wheels,--only-group build)
	@$(MAKE) --no-print-directory lock-gpu

# uv's overrides take the extra off TensorFlow, so it is resolved beside the project, with what is locked as it is.
lock-gpu: $(UV)
	@$(USE_PIP_INDEX); { printf '# SPDX-License-Identifier: Apache-2.0\n# Written by `make lock`: $(GPU_ADDS).\n' && \
		echo 'tensorflow[and-cuda]' | $(UV) pip compile --quiet --no-config --no-header --no-annotate --generate-hashes \
		--python-version 3.13 --python-platform x86_64-manylinux_2_39 --constraints requirements/run.lock \
		$$(sed -n 's/^\([a-z0-9_.-]*\)==.*/--no-emit-package \1/p' requirements/run.lock) -; } \
		>requirements/gpu.lock.new && mv requirements/gpu.lock.new requirements/gpu.lock

image: ## Build the container image (make image IMAGE=registry.example.com/mnist:1 TARGET=gpu)
	@deploy/build_image.sh $(IMAGE) $(TARGET)

# The default of IMAGE is no image that a cluster could pull.
accept: $(RUN_STAMP) ## Try this project on a real Kubeflow, for an hour (HOST=URL IMAGE=IMAGE; deploy/README.md has the rest)
	@$(VENV) -m deploy.accept $(call OPTION,host,HOST) $(if $(filter-out file,$(origin IMAGE)),--image '$(IMAGE)') \
		$(call OPTION,namespace,NAMESPACE) $(call OPTION,token-file,TOKEN_FILE) $(call OPTION,pvc,PVC) \
		$(call OPTION,data-dir,DATA_DIR) $(call OPTION,serving-dir,SERVING_DIR) $(call OPTION,kubeconfig,KUBECONFIG) \
		$(call OPTION,steps,STEPS)

sbom: $(DEV_STAMP) ## Write what is locked as a CycloneDX bill of materials (SBOM=sbom.cdx.json)
	@PYTHONWARNINGS=ignore::UserWarning .venv/bin/cyclonedx-py requirements requirements/run.lock \
		--pyproject pyproject.toml --output-reproducible --output-format JSON --output-file $(SBOM)
	@echo "$(SBOM): $$(grep -c '"purl"' $(SBOM)) packages"

# Without --strict, pip-audit finds no vulnerabilities in a package that it could not look up.
audit: $(DEV_STAMP) ## Look for known vulnerabilities in what is locked for this Python
	@log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	.venv/bin/pip-audit --strict --disable-pip --progress-spinner off --requirement requirements/run.lock 2>"$$log"; \
	status=$$?; cat "$$log" >&2; \
	if grep -Eq '^ERROR:|Traceback' "$$log"; then echo "NOT AUDITED: not every package could be looked up (above), so this says" \
		"nothing about vulnerabilities. The service that knows them must be within reach." >&2; fi; \
	exit $$status

clean: ## Remove the environment, uv and all caches, but nothing that a run has written
	rm -rf .uv .venv .venv-jax .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

OPTION = $(if $($(2)),--$(1) '$($(2))')
GPU_ADDS := what the image for GPUs adds to requirements/run.lock, CUDA for Linux and Python 3.13

# An export names no registry, unlike uv.lock, so it serves behind any mirror.
define EXPORT
{ printf '# SPDX-License-Identifier: Apache-2.0\n# Written by `make lock`: $(2).\n' && \
	$(UV) export --quiet --frozen --no-emit-project --no-header $(3); } >$(1).new && mv $(1).new $(1)
endef

$(UV): requirements/build.lock
	@$(PYTHON) requirements/lane.py >/dev/null
	@echo "Setting up uv in .uv"
	@rm -rf .uv && $(PYTHON) -m venv .uv
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/build.lock
	@touch $@

$(VENV): | $(UV)
	@$(UV) venv --quiet --clear --no-python-downloads --python .uv/bin/python .venv

# Removes what is not locked, tools and the stand-in included: the stamp of the tools is then older than this one.
$(RUN_STAMP): requirements/run.lock requirements/compat/pyproject.toml \
		$(shell find requirements/compat/src -name '*.py') $(VENV)
	@echo "Setting up .venv: 3 GB, of which 1 GB is downloaded the first time"
	@$(USE_PIP_INDEX); $(call SYNC,sync) requirements/run.lock
	@lane=$$($(VENV) requirements/lane.py) && { [ "$$lane" != compatible ] || \
		$(UV) pip install --quiet --offline --no-deps --python $(VENV) ./requirements/compat; }
	@touch $@

$(DEV_STAMP): requirements/dev.lock $(RUN_STAMP)
	@$(USE_PIP_INDEX); $(call SYNC,install) --no-deps -r requirements/dev.lock
	@touch $@

$(JAX_STAMP): requirements/jax.lock $(RUN_STAMP)
	@$(USE_PIP_INDEX); $(call SYNC,install) --quiet --no-deps --target .venv-jax -r requirements/jax.lock
	@touch $@
