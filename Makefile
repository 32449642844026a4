# make boot | test | lab | lab-shell | lint | bench | bench-lab | clean, on a machine with only make: see README.md.
# ARGS="..." goes on to the command that the target runs.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# pip compiles all of it, each time, and keeps nothing for build_ext, which compiles what has changed.
INSTALL := KVMXEN_BUILD=later $(PIP) --no-build-isolation --editable
BUILD_REQUIRES := import tomllib; \
    print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])

SOURCES := $(shell find kvmxen -name '*.py[xd]' -o -name '*.[Sch]' -o -name '*.ld')
MODULES := $(shell find kvmxen -name '*.pyx')
STUBBED := $(subst /,.,$(basename $(shell find kvmxen -name '*.pyi')))

.PHONY: boot device test lab lab-shell lint bench bench-lab clean

boot: device $(VENV)/built
	@$(BIN)/kvmxen boot $(ARGS)

# Who may not use /dev/kvm is told so before minutes of building. Python may not be there yet.
device:
	@! command -v $(PYTHON) >/dev/null || $(PYTHON) -m kvmxen.kvm.access

test: $(VENV)/built
	@$(BIN)/pytest $(ARGS)

# The guests in an emulated machine with a hardware-style KVM: see docs/lab.md.
lab: $(VENV)/built
	@.ci/system-packages $(PYTHON) lab
	@$(BIN)/python -m tests.lab $(ARGS)

lab-shell: $(VENV)/built
	@.ci/system-packages $(PYTHON) lab
	@$(BIN)/python -m tests.lab --shell $(ARGS)

# The same guest under kvmxen and its peers, in counts: rewrites docs/performance.md and its plot.
bench-lab: $(VENV)/bench $(VENV)/built
	@.ci/system-packages $(PYTHON) lab
	@$(BIN)/python -m benchmarks.lab $(ARGS)

bench: $(VENV)/bench $(VENV)/built
	@$(BIN)/python -m benchmarks $(ARGS)

lint: $(VENV)/built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint $(MODULES)
	@mkdir -p build/lint
	for module in $(MODULES); do \
	    $(BIN)/cython -3 -Wextra -Werror -o build/lint/module.c $$module || exit; \
	done
	@# What Cython adds to a module is in no stub, and it does not show __cinit__'s parameters.
	@echo '.*\.__init__' > build/lint/allowed
	$(BIN)/stubtest --ignore-missing-stub --ignore-disjoint-bases --ignore-unused-allowlist \
	    --allowlist build/lint/allowed --mypy-config-file pyproject.toml $(STUBBED)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f kvmxen/pv/shim/shim.bin kvmxen/guests/demo.elf
	find kvmxen tests -name '*.so' -delete -o -name __pycache__ -prune -exec rm -r {} +

# The packages and the environment, then the extension modules and the guests' code.
$(VENV)/installed: pyproject.toml
	.ci/system-packages $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(PIP) $$($(BIN)/python -c '$(BUILD_REQUIRES)')
	$(INSTALL) '.[dev]'
	@touch $@

$(VENV)/bench: $(VENV)/installed
	$(INSTALL) '.[bench]'
	@touch $@

$(VENV)/built: $(VENV)/installed setup.py $(SOURCES)
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@
