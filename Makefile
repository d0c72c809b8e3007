# Everything runs from one virtual environment, .venv, that make builds from requirements.lock.
# PORT and UL_HOME in the environment reach the service; PYTHON=… picks the interpreter.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The interpreter that the lock was resolved with, else the first on PATH that is new enough.
PYTHON ?= $(shell for p in python3.11 python3 python3.14 python3.13 python3.12 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# Where train-demo puts the prepared data and the two runs.
UL_DATA ?= .data
UL_RUNS ?= .runs

.PHONY: help venv serve test lint format proto fault-long chaos fuzz bench-train bench-sample bench-serve bench-overload bench-jobs bench-clips kernels-report train-demo train-video lock clean

help:
	@echo 'make serve         the service on http://127.0.0.1:$${PORT:-8000}'
	@echo 'make test          lint, then the whole test suite'
	@echo 'make lint          ruff, mypy --strict, import contracts'
	@echo 'make format        rewrite the tree the way lint wants it'
	@echo 'make fault-long    every fault of workers, their engines and the store, on real processes'
	@echo 'make chaos         a hundred jobs while processes are killed at random, for three minutes'
	@echo 'make fuzz          two hundred requests to every operation, drawn from the OpenAPI document'
	@echo 'make proto         what service/rpc/proto/ul.proto generates'
	@echo 'make train-demo    train the Fashion-MNIST demo model from nothing, into $(UL_RUNS)'
	@echo 'make train-video   train the demo of clips, moving sprites, likewise'
	@echo 'make bench-train   images a second and FLOP utilisation of a training step'
	@echo 'make bench-sample  the sampler against a DiT, the service against the bare loop;'
	@echo '                   with AGAINST=COMMIT, sampling on the CPU against a commit of before'
	@echo 'make bench-serve  the service under load beside a lock, LitServe and Ray Serve'
	@echo 'make bench-overload  three times what the service can do, for a minute'
	@echo 'make bench-jobs    what a job costs beside the engine, and a queue of 20 000'
	@echo 'make bench-clips   what an engine holds while clips of 16, 64 and 256 frames are decoded'
	@echo 'make kernels-report  compile the Triton kernels for three GPUs, write kernels/REPORT.md'
	@echo 'make lock          resolve the dependencies anew and write requirements.lock'
	@echo 'make clean         remove $(VENV) and everything that tools cached'

venv: $(READY)

# setuptools first, from the lock too: the build then needs no unpinned environment of its own.
# pip compiles with one core what is 19 000 modules, a few of them templates that nothing imports.
$(READY): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo 'Python 3.11 or newer is needed: make PYTHON=…' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock \
		--no-compile --no-build-isolation -e '.[train,serve,dev]'
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@touch $@

serve: $(READY)
	$(BIN)/ul-serve up

test: lint
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# The package's own paths, so that the generated imports are the package's own too. Google's wheel
# has its operations.proto under another name than everybody imports it by.
GOOGLE = $(shell $(BIN)/python -c 'import google.rpc; print(*google.rpc.__path__)')
PROTOS := $(VENV)/protos
proto: $(READY)
	mkdir -p $(PROTOS)/google/longrunning
	cp $(GOOGLE)/../longrunning/operations_proto.proto $(PROTOS)/google/longrunning/operations.proto
	$(BIN)/python -m grpc_tools.protoc -I.import -I$(PROTOS) -I$(GOOGLE)/../.. \
		--python_out=.import --pyi_out=.import --grpc_python_out=.import \
		.import/unified_latents/service/rpc/proto/ul.proto

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# At the leases of production, most of it waiting: three at a time. -rP shows what was measured.
FAULTS := FAULT_LONG=1 $(BIN)/pytest -rP -o log_level=INFO --log-disable=httpx
fault-long: $(READY)
	$(FAULTS) -n 3 tests/service/test_server_worker.py tests/service/jobs/test_worker_outage.py

# CHAOS_SEED and CHAOS_SECONDS in the environment say which, and how long.
chaos: $(READY)
	$(FAULTS) tests/service/test_server_chaos.py

fuzz: $(READY)
	FUZZ=200 $(BIN)/pytest tests/service/http/test_openapi_schemathesis.py

bench-train: $(READY)
	$(BIN)/ul-train bench

# AGAINST=COMMIT compares the sampling of this tree with a commit's instead.
bench-sample: $(READY)
	$(BIN)/ul-serve bench $(if $(AGAINST),--against $(AGAINST))

# The rivals live apart, over our own libraries: their pins never reach the lock.
RIVALS := .rivals
$(RIVALS)/.ready: service/bench/serving/rivals.txt $(READY)
	$(PYTHON) -m venv $(RIVALS)
	$(RIVALS)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c requirements.lock -r service/bench/serving/rivals.txt
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
		> $$($(RIVALS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ours.pth
	@touch $@

bench-serve: $(RIVALS)/.ready
	$(BIN)/ul-serve bench-serve --rivals $(RIVALS)/bin/python

bench-overload: $(READY)
	$(BIN)/ul-serve bench-overload

bench-jobs: $(READY)
	$(BIN)/ul-serve bench-jobs

bench-clips: $(READY)
	$(BIN)/ul-serve bench-clips

kernels-report: $(READY)
	$(BIN)/ul-kernels check --out kernels/REPORT.md

# Two legs of stage 1: a low bitrate first, so that the latent forms, then a higher one.
train-demo: $(READY)
	$(BIN)/ul-train data fashion-mnist --out $(UL_DATA)/fashion-mnist
	$(BIN)/ul-train stage1 fashion --compile --data $(UL_DATA)/fashion-mnist --out $(UL_RUNS)/first
	$(BIN)/ul-train export $(UL_RUNS)/first/checkpoint --out $(UL_RUNS)/first-half --half
	$(BIN)/ul-train stage1 fashion --compile --data $(UL_DATA)/fashion-mnist --out $(UL_RUNS)/stage1 \
		--init $(UL_RUNS)/first-half --loss-factor 8 --steps 3000
	$(BIN)/ul-train export $(UL_RUNS)/stage1/checkpoint --out $(UL_RUNS)/stage1-half --half
	$(BIN)/ul-train stage2 fashion --compile --data $(UL_DATA)/fashion-mnist \
		--stage1 $(UL_RUNS)/stage1-half --out $(UL_RUNS)/stage2
	$(BIN)/ul-train export $(UL_RUNS)/stage2/checkpoint --out $(UL_RUNS)/fashion --half
	$(BIN)/ul-train evaluate $(UL_RUNS)/fashion --data $(UL_DATA)/fashion-mnist \
		--out $(UL_RUNS)/report --processes 2 --compile --attach \
		--log $(UL_RUNS)/stage1/log.jsonl --log $(UL_RUNS)/stage2/log.jsonl

# Two legs of stage 1 again. The shipped model's first was stopped after 1029 of 3000 steps.
train-video: $(READY)
	$(BIN)/ul-train data moving-sprites --out $(UL_DATA)/moving-sprites
	$(BIN)/ul-train stage1 moving_sprites --data $(UL_DATA)/moving-sprites \
		--out $(UL_RUNS)/video-first --steps 1000
	$(BIN)/ul-train stage1 moving_sprites --data $(UL_DATA)/moving-sprites \
		--out $(UL_RUNS)/video-stage1 --init $(UL_RUNS)/video-first/checkpoint \
		--loss-factor 16 --steps 2200
	$(BIN)/ul-train export $(UL_RUNS)/video-stage1/checkpoint --out $(UL_RUNS)/video-half --half
	$(BIN)/ul-train stage2 moving_sprites --data $(UL_DATA)/moving-sprites \
		--stage1 $(UL_RUNS)/video-half --out $(UL_RUNS)/video-stage2 --batch 16 --steps 2700
	$(BIN)/ul-train export $(UL_RUNS)/video-stage2/checkpoint --out $(UL_RUNS)/sprites --half
	$(BIN)/ul-train evaluate $(UL_RUNS)/sprites --data $(UL_DATA)/moving-sprites \
		--out $(UL_RUNS)/video-report --images 64 --attach

# Resolved in a fresh environment, so that nothing installed by hand slips in.
lock:
	rm -rf .lock-venv
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet --upgrade '.[train,serve,dev]'
	{ sed -n '/^#/p' requirements.lock; .lock-venv/bin/python -m pip freeze --all \
		--exclude unified-latents --exclude pip | sed 's/+.*//; s/ @ .*//'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock
	rm -rf .lock-venv

clean:
	rm -rf $(VENV) $(RIVALS) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache \
		.hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
