# Everything that pip installs goes into .venv; nothing outside this folder is changed, but for Debian packages that are
# missing, which root gets through apt-get. ARGS="..." is handed on: make test ARGS="-k int3 --engine pysim".

PYTHON ?= python3
ARGS   ?=
VENV   := .venv
BIN    := $(VENV)/bin
PY     := $(BIN)/python
READY  := $(VENV)/.ready
COUNT  ?= 2000
SEED   ?= 1

# The tests of `check`: no guest, no engine, nothing that takes more than a few seconds.
QUICK := tests/test_layers.py tests/isa/test_table.py tests/kprobes/test_probe_registration.py \
         tests/kprobes/test_probe_hits.py tests/kprobes/test_probe_faults.py tests/kprobes/test_probe_reentry.py \
         tests/kprobes/test_jprobes.py tests/unit/test_bits.py tests/unit/test_elf.py tests/unit/test_fetch.py

.DEFAULT_GOAL := help
.PHONY: help setup run test check bench export vectors campaign clean distclean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(READY) ## install everything into .venv

run: $(READY) ## the demo: two probes on a guest from gcc
	@$(PY) -m sim run $(ARGS)

test: $(READY) ## all tests
	@$(PY) -m pytest -n $${JOBS:-2} --dist worksteal --hardware all $(ARGS)

check: $(READY) ## lint, types, layers and quick tests, in under a minute
	$(BIN)/ruff check --quiet .
	$(BIN)/pyright
	$(PY) -m pytest -q -m "not slow" --hardware none -n $${JOBS:-2} $(QUICK) $(ARGS)

bench: $(READY) ## measure cycles per instruction, of traps, and per second
	@$(PY) -m sim bench $(ARGS)

export: $(READY) ## write the core as Verilog
	@$(PY) -m sim export $(ARGS)

vectors: $(READY) ## capture COUNT vectors from this machine's processor (SEED=n), and run them on the core
	@mkdir -p out
	$(PY) -m tests.silicon.capture --count $(COUNT) --seed $(SEED) -o out/vectors-$(SEED).json
	$(PY) -m sim vectors out/vectors-$(SEED).json $(ARGS)

campaign: $(READY) ## run COUNT fresh vectors on the core, in all processors (SEED=n); shrink and keep what fails
	$(PY) -m tests.silicon.campaign --count $(COUNT) --seed $(SEED) $(ARGS)

clean: ## remove what was built, but not .venv
	rm -rf build out .pytest_cache .ruff_cache .hypothesis *.egg-info
	find hw kprobes sim tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove .venv as well
	rm -rf $(VENV)

# --- set-up ---
# Needed: Python 3.11 with venv, gcc with the C headers. Wanted: g++ for the compiled engine, iverilog for tests/cocotb,
# QEMU for tests/system.

define SETUP
set -e
missing=
need() { missing="$$missing $$1"; }
# cocotb embeds Python in the simulator, and needs it as a shared library.
libpython() {
	$(PYTHON) -c 'import ctypes.util as u, glob, sys, sysconfig as c; n = "python%d.%d" % sys.version_info[:2]; \
	sys.exit(not (u.find_library(n) or glob.glob("%s/lib%s*.so*" % (c.get_config_var("LIBDIR"), n))))' 2>/dev/null
}
command -v $(PYTHON) >/dev/null || need python3
[ -x $(BIN)/pip ] || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || need python3-venv
command -v gcc >/dev/null || need gcc
echo '#include <stdio.h>' | gcc -E - >/dev/null 2>&1 || need libc6-dev
command -v g++ >/dev/null || need g++
command -v iverilog >/dev/null || need iverilog
command -v qemu-system-x86_64 >/dev/null || need qemu-system-x86
libpython || need libpython3.$$($(PYTHON) -c 'import sys; print(sys.version_info[1])' 2>/dev/null || echo 11)
if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	echo "setup: installing Debian packages:$$missing"
	export DEBIAN_FRONTEND=noninteractive
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing; } >/tmp/kphw-apt.$$$$ 2>&1 </dev/null \
		|| { tail -n 5 /tmp/kphw-apt.$$$$; echo "setup: apt-get failed"; }
	rm -f /tmp/kphw-apt.$$$$
fi
have() { command -v "$$1" >/dev/null; }
how="as root: apt-get install$$missing"
have $(PYTHON) && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "setup: Python 3.11 or later is needed ($$how), or name one: make PYTHON=python3.12"; exit 1; }
[ -x $(BIN)/pip ] || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	|| { echo "setup: Python's venv module is missing. Install it, $$how"; exit 1; }
have gcc || { echo "setup: gcc is missing: guests are built with it. Install it, $$how"; exit 1; }
have g++ || echo "setup: g++ is missing: no compiled engine, its tests are skipped. To have it, as root: apt-get install g++"
libpython || echo "setup: libpython is missing: tests/cocotb is skipped. To have it, $$how"
have iverilog || echo "setup: iverilog is missing: tests/cocotb is skipped. To have it, as root: apt-get install iverilog"
have qemu-system-x86_64 || echo "setup: QEMU is missing: its tests are skipped. To have it, as root: apt-get install qemu-system-x86"
[ -x $(BIN)/pip ] || $(PYTHON) -m venv --clear $(VENV)
echo "setup: installing Python packages into $(VENV)"
$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[export,kernel,dev]' </dev/null
touch $(READY)
endef
export SETUP

$(READY): pyproject.toml
	@sh -c "$$SETUP"
