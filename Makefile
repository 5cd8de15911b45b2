# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
# `make` lists the targets. Each installs what it needs and is missing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
SALT ?= 3008
TESTS ?= tests/integration
export SALT

venv = $$(tests/lab/install $(1))
# Runs a command with the environment of SALT on a private machine, whose folder goes with it.
on_machine = dir=$$(mktemp -d /var/tmp/store-deploy.XXXXXX); trap 'rm -rf "$$dir"' EXIT; \
	venv=$(call venv,$(SALT)); tests/lab/machine "$$dir" env PATH="$$venv/bin:$$PATH" $(1)
scripts = $$(git grep --files-with-matches '^\#!.*sh$$' -- .ci kiwi tests/lab)

.PHONY: help demo test long quick lint types descriptions unit functional integration matrix faults e2e bench image diagram \
	lab-up lab-down clean packages

help:  ## list the targets
	@echo 'Targets (SALT=3008 or 3006 chooses the Salt line, now $(SALT)):'
	@sed -nE 's/^([a-z0-9-]+):.* ## (.*)/  \1\t\2/p' Makefile | expand --tabs=16

demo: packages  ## deploy store 0815 into a real guest, and show how
	@tests/lab/demo

test: lint types descriptions  ## unit, functional and integration on 3008, most on 3006, and the real guest
	@$(MAKE) --jobs=$(SIDE_BY_SIDE) --keep-going $(parts)

# Its parts, the longest one first, each on a machine of its own: they wait more than they compute.
SIDE_BY_SIDE ?= $$((2 * $$(nproc)))
files = $(addprefix integration/,$(notdir $(wildcard tests/integration/test_*.py)))
# Where Salt itself is what a test is about. The others are in `make long`.
of_salt = $(filter %good_path.py %doctor.py %doctor_running.py %hostile_minion.py %secrets.py %restored.py,$(files))
parts = part/3008/e2e $(addprefix part/3008/,functional $(files) unit) $(addprefix part/3006/,functional $(of_salt) unit)
rest = part/3008/matrix part/3006/matrix part/3006/e2e $(addprefix part/3006/,$(filter-out $(of_salt),$(files)))

long: packages  ## what `make test` has no time for: matrix on both lines, the rest on 3006; then `make faults`
	@$(MAKE) --jobs=3 --keep-going $(rest)
	@$(MAKE) faults

part/%: packages
	@set -- $(subst /, ,$*); $(MAKE) SALT=$$1 $$2 $${3:+TESTS=tests/integration/$$3} 2>&1 | \
		sed --unbuffered "s|^|$$1 $${3:-$$2}: |"

quick: lint types descriptions  ## the tests that take no running master and no guest
	@$(MAKE) --jobs=2 --output-sync=target unit functional

lint: packages  ## style and likely mistakes of all languages here
	@PATH=$(call venv,tools)/bin:$$PATH; set -x; \
	ruff format --check; ruff check; yamllint --strict .; salt-lint $$(git ls-files '*.sls'); \
	shellcheck $(scripts)

types: packages  ## mypy on the core
	@$(call venv,tools)/bin/mypy --python-executable $(call venv,3008)/bin/python

descriptions: packages  ## the image descriptions, by kiwi's own schema
	@$(call venv,tools)/bin/pytest tests/kiwi

unit: packages  ## the core by itself
	@$(call venv,$(SALT))/bin/pytest tests/unit

functional: packages  ## modules, states and runners in Salt's loader, with a real libvirt
	@$(call on_machine,pytest tests/functional)

integration: packages  ## a real master and minions with the shipped configuration (TESTS: some files of it)
	@$(call on_machine,pytest $(TESTS))

matrix: packages  ## every fault in every state of a deployment, as a table
	@$(call on_machine,pytest tests/faults)

faults: matrix  ## the matrix, rounds of faults on a real guest, 10,000 forged doorbells, 20 minutes of standstill (two hours)
	@$(call venv,$(SALT))/bin/pytest tests/night
	@$(call on_machine,STORE_DEPLOY_FLOOD=10000 pytest tests/integration/test_hostile_minion.py -k flood)
	@$(call on_machine,STORE_DEPLOY_FROZEN_S=1200 pytest tests/integration/test_time.py -k still)

e2e: packages  ## whole deployments into a real guest, checked from outside
	@$(call venv,$(SALT))/bin/pytest tests/e2e

bench: packages  ## speed against the same work by hand; results as JSON
	@$(call venv,$(SALT))/bin/python tests/bench/run

image: packages  ## build the Debian image of the Salt line, or find it unchanged
	@tests/lab/lab image

diagram:  ## write the lifecycle's diagram and table of states into the README
	@tests/diagram.py README.md

lab-up: packages  ## start a master, a hypervisor and libvirt to play with: tests/lab/lab
	@tests/lab/lab up

lab-down:  ## end the lab and all that runs in it
	@tests/lab/lab down

clean: lab-down  ## end the lab and remove what tests left in the checkout
	@rm -rf .mypy_cache .pytest_cache .ruff_cache artifacts
	@find . -name __pycache__ -prune -exec rm -rf {} +

packages:
	@tests/lab/install packages
