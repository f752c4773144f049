# The front door. `make help` lists what it can do.
SHELL := /bin/sh
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

BIN := $(CURDIR)/.venv/bin
# What the lab needs lives in sbin, which a user's path may lack.
export PATH := $(BIN):$(PATH):/usr/sbin:/sbin
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.ansible/collections
export ANSIBLE_HOME := $(CURDIR)/build/ansible
export YAMLLINT_CONFIG_FILE := $(CURDIR)/.config/yamllint.yml
# Scenarios live in molecule/, where a newcomer looks for them.
export MOLECULE_GLOB := molecule/*/molecule.yml

# Containers and network namespaces are root's.
AS_ROOT := $(shell test "$$(id -u)" = 0 || echo 'sudo --preserve-env env "PATH=$$PATH" "ANSIBLE_HOME=$$ANSIBLE_HOME/root"')

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: demo
demo: .venv/controller lab-tools ## from a bare machine to a dual stack lab, with the proof at the end (root or sudo)
	@$(AS_ROOT) python tests/lab/demo.py

.PHONY: lab-up
lab-up: .venv/controller lab-tools ## start the lab anew, in its legacy, IPv4-only state
	@$(AS_ROOT) python tests/lab/lab.py up

.PHONY: lab-down
lab-down: .venv/controller ## remove the lab's containers and networks, and nothing else
	@$(AS_ROOT) python tests/lab/lab.py down

.PHONY: test test-lab test-apart
test: check ## everything: lint, unit, parsers, faults, molecule scenarios, the demonstration run twice
	@$(AS_ROOT) python tests/lab/lab.py images
	@$(MAKE) --jobs 2 test-lab test-apart

# Two at a time: both wait for daemons and boots for much of their time. What one of them says stands together.
test-lab:
	@$(call TOLD,$(MAKE) molecule && $(MAKE) demo-test)
test-apart:
	@$(call TOLD,$(MAKE) kernel && $(MAKE) parsers && $(MAKE) faults S="(nginx and trixie) or short")
TOLD = mkdir -p build; { $(1); } > build/$@.log 2>&1; status=$$?; cat build/$@.log; exit $$status

.PHONY: check
check: .venv/developer ## what a commit must pass, in under a minute
	@$(MAKE) --jobs 2 --output-sync lint unit

.PHONY: lint
lint: .venv/developer ## ruff, mypy, yamllint, ansible-lint (profile production)
	ruff check
	ruff format --check
	mypy
	yamllint -c .config/yamllint.yml --strict .
	ansible-lint -c .config/ansible-lint.yml --strict

.PHONY: unit
unit: .venv/developer ## the core and the plugins, without a lab
	pytest tests/unit

.PHONY: kernel
kernel: .venv/developer lab-tools ## routes and packet filters against the kernel, in network namespaces of its own (root or sudo)
	$(AS_ROOT) pytest tests/netns

.PHONY: molecule
molecule: .venv/developer lab-tools ## molecule scenarios on real Debian 12 and 13 hosts; S=postfix for one of them
ifdef S
	$(AS_ROOT) molecule test -s $(S)
else
	@$(AS_ROOT) rm -f build/molecule-failures.txt
	$(AS_ROOT) molecule test --all --exclude convert || { cat build/molecule-failures.txt 2>/dev/null; exit 1; }
	$(AS_ROOT) molecule test -s convert || { cat build/molecule-failures.txt 2>/dev/null; exit 1; }
endif

.PHONY: parsers
parsers: .venv/developer lab-tools ## our edits of generated files as the daemons' own parsers see them, on Debian 12 and 13
	$(AS_ROOT) pytest tests/parsers

.PHONY: faults
faults: .venv/developer lab-tools ## break every service in every way on Debian 12 and 13, and kill runs at each step; S=postfix for one
	$(AS_ROOT) pytest tests/fault $(if $(S),-k "$(S)")

.PHONY: demo-test
demo-test: .venv/developer lab-tools ## the demonstration from the legacy state, and again on the converted lab
	$(AS_ROOT) pytest tests/lab

.PHONY: bench
bench: .venv/developer lab-tools ## what plan, virtual hosts, services, edge routes and a whole conversion cost, beside limits and peers (root or sudo)
	@python tests/bench/plan.py
	@$(AS_ROOT) python tests/bench/vhosts.py
	@$(AS_ROOT) python tests/bench/services.py
	@$(AS_ROOT) python tests/bench/edge.py
	@$(AS_ROOT) python tests/bench/zero_loss.py

.PHONY: fuzz
fuzz: .venv/developer ## 10,000 damaged ledgers and plans, and 500 histories of a fleet: an error of ours or a clean load
	DUALSTACK_FUZZ_CASES=10000 pytest tests/unit/test_allocation.py

.PHONY: build
build: .venv/controller ## the collection's tarball, in dist/
	ansible-galaxy collection build --force --output-path dist

.PHONY: clean
clean: .venv/controller ## remove the lab, its images and everything that was made in this folder
	@$(AS_ROOT) python tests/lab/lab.py forget
	$(AS_ROOT) rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache

.PHONY: python-tools lab-tools
python-tools:
	@mkdir -p build/ansible
	@tests/lab/require python
lab-tools:
	@tests/lab/require lab

.venv/controller: .config/requirements.txt | python-tools
	test -x .venv/bin/python || python3 -m venv .venv
	.venv/bin/pip install --quiet --requirement .config/requirements.txt
	@touch $@

.venv/developer: .config/requirements-dev.txt .venv/controller
	.venv/bin/pip install --quiet --requirement .config/requirements-dev.txt
	@touch $@
