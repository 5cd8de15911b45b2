# SPDX-FileCopyrightText: store-deploy contributors
# SPDX-License-Identifier: Apache-2.0
# `make` lists the targets. Each installs what it needs and is missing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
SALT ?= 3008
TESTS ?= tests/integration
UNITS ?= tests/unit
export SALT

venv = $$(tests/lab/install $(1))
# Runs a command with the environment of SALT on a private machine, whose folder goes with it.
on_machine = dir=$$(mktemp -d /var/tmp/store-deploy.XXXXXX); trap 'rm -rf "$$dir"' EXIT; \
	venv=$(call venv,$(SALT)); tests/lab/machine "$$dir" env PATH="$$venv/bin:$$PATH" $(1)
scripts = $$(git grep --files-with-matches '^\#!.*sh$$' -- .ci kiwi packaging tests/lab)

.PHONY: help demo page test long quick quick/style quick/unit quick/hypervisor quick/master quick/others lint types descriptions unit functional \
	integration packaging matrix faults night e2e hypervisor xen uyuni bench bench-scale image diagram lab-up lab-down clean packages \
	install uninstall rpm deb

help:  ## list the targets
	@echo 'Targets (SALT=3008, 3006 or 3006.8 chooses the Salt line, now $(SALT)):'
	@sed -nE 's/^([a-z0-9-]+):.* ## (.*)/  \1\t\2/p' Makefile | expand --tabs=16

demo: packages  ## deploy store 0815 into a real guest, and show how
	@tests/lab/demo

PORT ?= 8000
page: packages  ## the page, with a few stores to try it on, at http://127.0.0.1:8000/app (PORT)
	@tests/lab/page $(PORT)

test: lint types descriptions  ## unit, functional, packaging, integration on 3008, most on 3006, some on 3006.8, the real guest
	+@$(call timed,--jobs=$(SIDE_BY_SIDE) $(parts))

# Runs parts, and then prints how long each took, and how long it may take.
times = artifacts/times
timed = rm -rf $(times); trap 'python3 tests/budgets.py $(times) $$SECONDS' EXIT; $(MAKE) --keep-going $(1)

# Its parts, the longest one first, each on a machine of its own: they wait more than they compute.
SIDE_BY_SIDE ?= $$((2 * $$(nproc)))
files = $(addprefix integration/,$(notdir $(wildcard tests/integration/test_*.py)))
# Where Salt itself is what a test is about. The others are in `make long`.
of_salt = $(filter %good_path.py %doctor.py %doctor_running.py %hostile_minion.py %secrets.py %restored.py %uyuni.py %who.py %api.py,$(files))
# What SUSE's 3006.0 does with served files, 3006.8 does too.
of_files = $(filter %good_path.py %doctor.py,$(files))
longest = part/3008/e2e $(addsuffix /functional,part/3008 part/3006) part/3008/integration/test_time.py part/3008/integration/test_page.py \
	$(addsuffix /integration/test_restored.py,part/3008 part/3006)
parts = $(longest) $(filter-out $(longest),$(addprefix part/3008/,$(files) unit packaging) \
	$(addprefix part/3006/,$(of_salt) unit) $(addprefix part/3006.8/,$(of_files)))
# The rest of the core imports no Salt, and both lines have the same Python.
part/3006/unit: export UNITS = $(shell grep --files-with-matches --extended-regexp 'import salt|storemaster\.master' \
	tests/unit/test_*.py)
rest = part/3008/hypervisor part/3008/xen part/3008/uyuni part/3008/matrix part/3006/matrix part/3006/e2e part/3006/packaging $(addprefix part/3006/,$(filter-out $(of_salt),$(files)))

long: packages  ## what `make test` has no time for: matrix on both lines, the rest on 3006; then `make night`
	+@$(call timed,--jobs=3 $(rest))
	@$(MAKE) night

part/%: packages
	@set -- $(subst /, ,$*); status=0; mkdir -p $(times); told=$(times)/$(subst /,-,$*); \
	$(MAKE) SALT=$$1 $$2 $${3:+TESTS=tests/integration/$$3} 2>&1 | tee $$told.log | \
		sed --unbuffered "s|^|$$1 $${3:-$$2}: |" || status=$$?; \
	echo "$$1 $${3:-$$2} $$SECONDS $$status" >$$told.note; exit $$status

# The parts of its functional tests take about the same time.
quick: packages  ## the tests that take no running master and no guest, but for the thorough ones
	@$(MAKE) --jobs=5 --output-sync=target quick/others quick/hypervisor quick/master quick/unit quick/style

on_the_master = $(wildcard $(addprefix tests/functional/test_,doctor*.py keys.py runner.py settings.py store_list*.py uyuni*.py))
quick/style: lint types descriptions
quick/unit: packages
	@$(call venv,$(SALT))/bin/pytest -m "not thorough" tests/unit
quick/hypervisor quick/master quick/others: packages
	@$(call on_machine,pytest -m "not thorough" $(QUICK))
quick/hypervisor: QUICK = tests/functional/hypervisor
quick/master: QUICK = $(on_the_master)
quick/others: QUICK = tests/functional $(addprefix --ignore=,tests/functional/hypervisor $(on_the_master))

lint: packages  ## style and likely mistakes of all languages here
	@PATH=$(call venv,tools)/bin:$$PATH; set -x; \
	ruff format --check; ruff check; yamllint --strict .; salt-lint $$(git ls-files '*.sls'); \
	shellcheck $(scripts)

types: packages  ## mypy on the core
	@$(call venv,tools)/bin/mypy --python-executable $(call venv,3008)/bin/python

descriptions: packages  ## the image descriptions, by kiwi's own schema
	@$(call venv,tools)/bin/pytest tests/kiwi

unit: packages  ## the core by itself
	@$(call venv,$(SALT))/bin/pytest $(UNITS)

functional: packages  ## modules, states and runners in Salt's loader, with a real libvirt
	@$(call on_machine,pytest tests/functional)

packaging: packages  ## install, upgrade and remove, in each documented way
	@$(call on_machine,pytest tests/packaging)

integration: packages  ## a real master and minions with the shipped configuration (TESTS: some files of it)
	@$(call on_machine,pytest $(TESTS))

matrix: packages  ## every fault in every state of a deployment, as a table
	@$(call on_machine,pytest tests/faults)

faults: matrix night  ## both of them (two hours)

night: packages  ## rounds of faults on a real guest, 10,000 forged doorbells, 20 minutes of standstill
	@$(call venv,$(SALT))/bin/pytest tests/night
	@$(call on_machine,STORE_DEPLOY_FLOOD=10000 pytest tests/integration/test_hostile_minion.py -k flood)
	@$(MAKE) --jobs $(addprefix still/,a_master an_engine minions)

# Each waits for 20 minutes, all of them at once.
still/%: packages
	@$(call on_machine,STORE_DEPLOY_FROZEN_S=1200 pytest tests/integration/test_time.py -k "$*_that_stand")

e2e: packages  ## whole deployments into a real guest, checked from outside
	@$(call venv,$(SALT))/bin/pytest tests/e2e $(addprefix --ignore=tests/e2e/test_,hypervisor_states.py hypervisor_xen.py uyuni.py)

hypervisor: packages  ## a minion of a guest becomes a hypervisor, and loses no network
	@$(call venv,$(SALT))/bin/pytest tests/e2e/test_hypervisor_states.py

xen: packages  ## a minion of a guest becomes a hypervisor under Xen, booted by GRUB
	@$(call venv,$(SALT))/bin/pytest tests/e2e/test_hypervisor_xen.py

uyuni: packages  ## a real guest from the data of Uyuni's forms to deployed
	@$(call venv,$(SALT))/bin/pytest tests/e2e/test_uyuni.py

bench: packages  ## speed against the same work by hand, and the product's own time; results as JSON
	@$(call venv,$(SALT))/bin/python tests/bench/run
	@$(call on_machine,python tests/bench/own)
	@PATH=$(call venv,$(SALT))/bin:$$PATH; python tests/bench/lists; python tests/bench/outbox
	@$(call on_machine,python tests/bench/page)

bench-scale: packages  ## what one thing costs the master with 100, 1,000 and 10,000 stores: the same, or it fails
	@$(call on_machine,python tests/bench/scale)

image: packages  ## build the Debian image of the Salt line, or find it unchanged
	@tests/lab/lab image

diagram: packages  ## write what is made of lifecycle and field table: diagram, tables of the docs, schema, forms
	@for file in README.md tests/README.md docs/operate.md docs/pillar.md docs/stores.md pillar/store_server.schema.json \
		uyuni/store-defaults/form.yml uyuni/store-defaults/metadata.yml uyuni/store-defaults/pillar.example \
		uyuni/store-server/form.yml uyuni/store-server/metadata.yml uyuni/store-server/pillar.example; \
		do $(call venv,3008)/bin/python tests/diagram.py $$file; done

FLAVOUR ?= plain
AUTOSIGN ?= yes
export DESTDIR AUTOSIGN

install:  ## install on this Salt master (FLAVOUR=plain, uyuni or uyuni-container; DESTDIR=; AUTOSIGN=no)
	@packaging/install '$(FLAVOUR)'

uninstall:  ## remove what `make install` has installed (DESTDIR=)
	@packaging/install --remove

rpm:  ## build the RPMs into artifacts/
	@packaging/build rpm

deb:  ## build the Debian packages into artifacts/
	@packaging/build deb

lab-up: packages  ## start a master, a hypervisor and libvirt to play with: tests/lab/lab
	@tests/lab/lab up

lab-down:  ## end the lab and all that runs in it
	@tests/lab/lab down

clean: lab-down  ## end the lab and remove what tests left in the checkout
	@rm -rf .mypy_cache .pytest_cache .ruff_cache artifacts
	@find . -name __pycache__ -prune -exec rm -rf {} +

packages:
	@tests/lab/install packages
