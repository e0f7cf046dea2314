# `make help` lists the targets. Everything is installed into .venv and nowhere else.

PYTHON ?= python3
# Tests run in this many processes, each with one compute thread; on a bigger machine: make test WORKERS=8
WORKERS ?= 2
# One that dies fails the run: pytest-xdist 3.8 gives the one started in its place nothing to do, and
# would wait for it for ever.
IN_WORKERS = -n $(WORKERS) --max-worker-restart=0
# Passed on to pytest, as in: make test ARGS="tests/packaging -k wheel"
ARGS ?=
# Pythons to try a wheel with, by default those that are here: make test-wheel PYTHONS="python3.10"
PYTHONS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-demo
CPP_BUILD := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
CPP_SOURCES = $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

# What .venv imports is compiled once and kept, whatever the shell says: tests start hundreds of
# processes, and each would compile it again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test transformers-tests fetch-transformers-tests wheel test-wheel sdist manylinux interpret simulate
.PHONY: docs accessibility test-tensorflow sanitize lint format gpu resources predictions bench venv clean distclean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

venv: $(STAMP) ## set up .venv: pinned requirements and this package, editable

# Made again when one of these changes; otherwise a later run starts at once.
BUILT_FROM := requirements/install.sh requirements/run.txt pyproject.toml setup.py $(CPP_BUILD)
SET_UP := PYTHON=$(PYTHON) sh requirements/install.sh $(VENV)
PIP_INSTALL := $(BIN)/pip install --no-compile

$(STAMP): $(BUILT_FROM) requirements/dev.txt requirements/serve.txt requirements/triton.txt
	@$(SET_UP) dev
	@touch $(DEMO_STAMP) $@

# The same, but only what the demo needs: no tools, no Triton, no CUDA operators.
$(DEMO_STAMP): $(BUILT_FROM)
	@$(SET_UP) run
	@touch $@

demo: $(DEMO_STAMP) ## how many iterations each token of some real sentences takes
	@$(BIN)/albert-act-fast depth \
	    "It was the best of times, it was the worst of times." \
	    "Call me [MASK]." \
	    "It is a truth universally acknowledged, that a single man in possession of a good [MASK], must be in want of a wife."
	@echo
	@echo "Next, your own text:   $(BIN)/albert-act-fast depth \"Any sentence of yours.\""
	@echo "What runs here:        $(BIN)/albert-act-fast info"
	@echo "The tests:             make test"

# One process with all cores leaves them idle on small models; several with one thread each do not.
test: fetch-transformers-tests ## run the tests (gpu tests skip without a GPU; slow ones: make test ARGS="-m slow")
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/pytest $(IN_WORKERS) --dist loadgroup $(ARGS)
	$(if $(ARGS),,@$(MAKE) --no-print-directory interpret)
	$(if $(ARGS),,@$(MAKE) --no-print-directory simulate)
	$(if $(ARGS),,@if command -v gcc >/dev/null; then $(MAKE) --no-print-directory sanitize; \
	    else echo "The sanitizers are left out: there is no gcc."; fi)

transformers-tests: fetch-transformers-tests ## transformers' own common tests of models, and of ALBERT beside ours
	@OMP_NUM_THREADS=1 $(BIN)/pytest $(IN_WORKERS) tests/transformers_suite $(ARGS)

# They are in transformers' source distribution alone. Where it cannot be had they are skipped, but
# not in CI.
fetch-transformers-tests: $(STAMP)
	@cd tests && ../$(BIN)/python -m support.transformers_suite || test -z "$$CI"

# Triton decides when kernels are defined whether it interprets them, hence a process of their own.
# Some run beside a CUDA kernel, compiled as C++.
interpret: $(STAMP) ## run the Triton kernels' tests, in Triton's interpreter on the CPU
	@TRITON_INTERPRET=1 ALBERT_ACT_FAST_CUDA_ON_CPU=1 OMP_NUM_THREADS=1 $(BIN)/pytest $(IN_WORKERS) --dist worksteal -k triton \
	    tests/ops tests/triton $(ARGS)

# Operators are registered for a whole process, hence one of its own here too.
simulate: $(STAMP) ## run the CUDA kernels' tests, compiled as C++ that gives threads as fibers
	@ALBERT_ACT_FAST_CUDA_ON_CPU=1 OMP_NUM_THREADS=1 $(BIN)/pytest $(IN_WORKERS) --dist worksteal \
	    -m "not slow and not gpu" \
	    -k cuda tests/ops tests/cuda/test_cuda_kernels.py $(ARGS)

# Python itself is not built with the sanitizers, so their runtimes are loaded before it.
sanitize: $(STAMP) ## build the C++ operators with AddressSanitizer and UBSan, and run their tests
	@rm -rf build/sanitized
	@ALBERT_ACT_FAST_SANITIZE=1 ALBERT_ACT_FAST_SKIP_CUDA=1 $(BIN)/pip install -q --no-deps --no-build-isolation \
	    --target build/sanitized .
	@LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so) \
	    $$(gcc -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
	    PYTHONPATH=build/sanitized OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive \
	    $(BIN)/python -m pytest $(IN_WORKERS) -p no:cacheprovider -k "cpp or native" \
	    tests/ops/test_operators.py tests/parity/test_engine_parity.py tests/native $(ARGS)

# compute-sanitizer comes with the CUDA toolkit. -s shows each kernel's share of a device copy's
# bandwidth.
gpu: $(STAMP) ## on a GPU: the gpu tests, the CUDA kernels under compute-sanitizer, the benchmarks
	@$(BIN)/pytest -m gpu -s tests
	@for tool in memcheck initcheck racecheck synccheck; do \
	    compute-sanitizer --tool $$tool --error-exitcode 1 \
	    $(BIN)/python -m pytest -p no:cacheprovider -m gpu -k ".cuda-cuda or every_width" \
	    tests/ops tests/cuda || exit 1; done
	@$(BIN)/python benchmarks run gpu --device cuda --output build/benchmarks/gpu.jsonl
	@$(BIN)/python benchmarks run operators --device cuda --output build/benchmarks/gpu_operators.jsonl

# Always from the sdist and never from pip's cache: no older build gets into a wheel.
sdist: $(STAMP) ## build the source distribution into dist/, and check it
	@$(BIN)/pip install -q --no-compile -r requirements/release.txt
	@rm -rf dist && ALBERT_ACT_FAST_SKIP_CPP=1 $(BIN)/python -m build --sdist --outdir dist .
	@$(BIN)/twine check --strict dist/*.tar.gz

# The operators take torch's library as they find it, so it is not packed along. auditwheel names the
# oldest glibc that the wheel runs with: that of this machine, or older. abi3audit looks whether it
# uses nothing but what every supported Python has.
wheel: sdist ## build one wheel for all Pythons into dist/, and check it
	@echo "[wheel] the operators are compiled, a minute or more"
	@rm -rf build/wheels && $(BIN)/python -m pip wheel --no-cache-dir --no-deps --wheel-dir build/wheels dist/*.tar.gz
	@if [ "$$(uname)" = Linux ]; then PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair \
	    --exclude libtorch_cpu.so --wheel-dir dist build/wheels/*.whl; \
	    else cp build/wheels/*.whl dist; fi
	@$(check_wheels)
	@$(BIN)/pip check
	@ls -lh dist

define check_wheels
$(BIN)/twine check --strict dist/* && $(BIN)/check-wheel-contents dist/*.whl && \
    $(BIN)/abi3audit --strict --report dist/*.whl >build/abi3audit.json && \
    echo "abi3audit: nothing but the stable ABI"
endef

# pip brings what the package needs into the new environments: for most builds of torch gigabytes.
test-wheel: wheel ## install that wheel in fresh environments without a compiler, and run it there
	@ALBERT_ACT_FAST_WHEEL="$$(ls dist/*.whl)" ALBERT_ACT_FAST_PYTHONS="$(PYTHONS)" \
	    $(BIN)/pytest -m slow tests/packaging/test_fresh_environment.py $(ARGS)

# In the manylinux containers, so with an older glibc; needs Docker.
manylinux: sdist ## the same with cibuildwheel, tried under every Python that is supported
	@$(BIN)/pip install -q cibuildwheel==4.3.5
	@$(BIN)/cibuildwheel --platform linux --output-dir dist dist/*.tar.gz
	@$(check_wheels)

lint: $(STAMP) ## check style, change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(if $(CPP_SOURCES),$(BIN)/clang-format --dry-run -Werror $(CPP_SOURCES))
	$(if $(wildcard $(BIN)/hadolint),$(BIN)/hadolint Dockerfile)
	$(BIN)/check-jsonschema -q --builtin-schema vendor.compose-spec compose.yaml

format: $(STAMP) ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(if $(CPP_SOURCES),$(BIN)/clang-format -i $(CPP_SOURCES))

# In an environment of its own; the docstrings are read, not imported.
docs: ## build the site of docs/ into build/site; a broken link fails
	@test -x build/docs/bin/pip || $(PYTHON) -m venv build/docs
	@build/docs/bin/pip install -q --no-compile -r requirements/docs.txt
	@NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --strict --quiet
	@echo "build/site/index.html"

# Without a Chromium on the path these tests are skipped, and say so.
accessibility: $(STAMP) docs ## axe-core on the site's, the service's and the reports' pages, in a Chromium
	@$(PIP_INSTALL) -q -r requirements/browser.txt
	@$(BIN)/pytest -m "" -rs tests/docs/test_accessibility.py $(ARGS)

# An environment of its own beside .venv, whose packages it sees: TensorFlow brings some hundred MB.
TENSORFLOW := build/tensorflow
test-tensorflow: $(STAMP) ## set up TensorFlow in build/tensorflow, and run what is tested with it
	@test -x $(TENSORFLOW)/bin/pip || $(PYTHON) -m venv $(TENSORFLOW)
	@echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	    > $$($(TENSORFLOW)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth
	@$(TENSORFLOW)/bin/pip install -q --no-compile -r requirements/tensorflow.txt
	@TF_CPP_MIN_LOG_LEVEL=2 CUDA_VISIBLE_DEVICES= $(TENSORFLOW)/bin/python -m pytest tests/tf $(ARGS)

# What a GPU would have to give to each kernel, found out without one.
resources: $(STAMP) ## compile the GPU kernels for all targets, and write the tables docs/*_resources.csv
	@cd tests && ../$(BIN)/python -m support.triton_resources
	@cd tests && ../$(BIN)/python -m support.cuda_resources

predictions: $(STAMP) ## predict the GPU engine's time from published peaks, and write docs/gpu_predictions.md
	@$(BIN)/python benchmarks/cost_model.py

# One process with all cores. Peers that are not installed are left out: pip install -r
# requirements/bench.txt.
bench: $(STAMP) ## the benchmarks, as in: make bench ARGS="run targets"
	@$(BIN)/python benchmarks $(or $(ARGS),run quick)

clean: ## remove build outputs and caches, keep .venv
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

distclean: clean ## clean, and remove .venv
	rm -rf $(VENV)
