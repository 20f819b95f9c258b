# Everything a newcomer types; `make` alone prints the list. Works with GNU make 3.81 and newer, and any sh.
#
# A target that needs the environment makes it first, once: .venv/.installed is written when the installation
# is complete, and is newer than pyproject.toml as long as the pins have not changed.

PROFILE ?= quick
ONLY    ?=
FRESH   ?=
WORKERS ?=
RAY     ?=
JOBS    ?= 2
ARGS    ?=
PYTHON  ?=

PYTHONS            := $(or $(PYTHON),python3.11 python3.12 python3.13 python3.10 python3)
PYTHONS_DEEPSPARSE := $(PYTHON_DEEPSPARSE) $(PYTHON) python3.11 python3.10 python3.9 python3.8 python3

PY      := .venv/bin/python
DS      := .venv-deepsparse
INSTALL := -m pip install --disable-pip-version-check
STRIP   := $(PY) -m nbstripout --keep-id \
           --extra-keys "metadata.papermill cell.metadata.papermill cell.metadata.execution"

# Asked by running them: a command may exist and still not work (pyenv's shims), or lack venv (Debian's python3).
# $(call works,python,lowest,highest) tells whether that Python 3 runs and lies between the two minor versions.
works  = "$(1)" -c 'import ensurepip, sys, venv; sys.exit(not (3, $(2)) <= sys.version_info[:2] <= (3, $(3)))' \
         >/dev/null 2>&1
# $(call choose,candidates,lowest,highest) prints the first candidate that works, or nothing.
choose = for p in $(1); do if $(call works,$$p,$(2),$(3)); then echo "$$p"; break; fi; done

.PHONY: help study figures test lint format lab deepsparse clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PROFILE=quick|small|paper  ONLY=01,03  FRESH=1   for study, for example: make study PROFILE=small ONLY=01"
	@echo "  WORKERS=2                                       runs side by side, each on its share of the threads"
	@echo "  RAY=auto|ADDRESS                                runs on the nodes of a Ray cluster"
	@echo "  PYTHON=python3.12                               the Python to make the environment with"
	@echo "  ARGS='-k corpus'                                handed on to pytest or to JupyterLab"
	@echo "  MMALIB_DATA=folder                              the original CoNLL files instead of the sample"

study: .venv/.installed $(if $(WORKERS)$(RAY),.venv/.ray) $(DS)/.tried ## run the notebooks in order and write runs/PROFILE/; goes on where it stopped
	@if [ -e $(DS)/.failed ]; then \
	    echo "DeepSparse is left out: $$(cat $(DS)/.failed) ('make deepsparse' tries again)"; fi
	@$(PY) -m mmalib study --profile '$(PROFILE)' $(if $(ONLY),--only '$(ONLY)') $(if $(FRESH),--fresh) \
	    $(if $(WORKERS),--workers $(WORKERS)) $(if $(RAY),--ray $(RAY))

figures: .venv/.installed ## redraw figures/ and the README's tables from figures/records (PROFILE=: runs/PROFILE/)
	@$(PY) -m mmalib figures $(if $(filter file,$(origin PROFILE)),,--profile '$(PROFILE)') $(ARGS)

test: .venv/.installed .venv/.ray ## run the tests, JOBS=2 side by side
	@$(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: .venv/.installed ## check code and notebooks: ruff, formatting, no outputs left in notebooks
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@find notebooks -name '*.ipynb' -not -path '*/.*' -exec $(STRIP) --verify {} +

format: .venv/.installed ## mend what lint complains about, where a machine can
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .
	@find notebooks -name '*.ipynb' -not -path '*/.*' -exec $(STRIP) {} +

lab: .venv/.installed ## open the notebooks in JupyterLab (ARGS=--no-browser on a server)
	@$(PY) -m jupyterlab --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate \
	    --LabApp.news_url=None $(ARGS) notebooks

# ---- The main environment ----

# The stamp holds the folder's own name, because a moved or copied environment would run another folder's code.
ifneq ($(shell cat .venv/.installed 2>/dev/null),$(CURDIR))
.PHONY: .venv/.installed
endif

# .venv-incomplete holds the number of the installing process. Whoever finds it without that process starts over:
# a half-unpacked package looks installed to pip. (In containers a killed process often stays on as a zombie, Z.)
# Where .venv is a link, the link goes: `--clear` would empty the environment that it leads to, which is another's.
.venv/.installed: pyproject.toml
	@set -e; \
	if ps -o stat= -p "$$(cat .venv-incomplete 2>/dev/null)" 2>/dev/null | grep -q '^ *[^ Z]'; then \
	    echo "Process $$(cat .venv-incomplete) is making .venv at this moment; wait for it" \
	         "(or delete .venv-incomplete, if that process is something else)." >&2; exit 1; fi; \
	if [ -e .venv-incomplete ] || ! $(call works,$(PY),10,13) \
	   || [ "$$(cat .venv/.installed 2>/dev/null || echo '$(CURDIR)')" != '$(CURDIR)' ]; then \
	    python=$$($(call choose,$(PYTHONS),10,13)); \
	    if [ -z "$$python" ]; then \
	        echo "No Python 3.10 to 3.13 that runs and has venv (tried: $(PYTHONS))." \
	             "Install one or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; fi; \
	    echo $$$$ > .venv-incomplete; \
	    echo "Making .venv with $$("$$python" --version); this takes a few minutes, once."; \
	    if [ -L .venv ]; then rm .venv; fi; \
	    "$$python" -m venv --clear .venv; \
	fi; \
	echo $$$$ > .venv-incomplete; rm -f .venv/.installed; \
	$(PY) $(INSTALL) -e '.[study,dev]'; \
	echo '$(CURDIR)' > .venv/.installed; rm -f .venv-incomplete

# Ray, for whoever wants workers, and for the tests.
.venv/.ray: .venv/.installed
	@$(PY) $(INSTALL) -e '.[study,dev,ray]'; touch $@

# ---- DeepSparse, which cannot live with the others ----

deepsparse: ## make .venv-deepsparse, or say why that cannot be done
	@if [ -e $(DS)/.failed ]; then rm -f $(DS)/.tried; fi
	@$(MAKE) --silent --no-print-directory $(DS)/.tried
	@if [ -e $(DS)/.failed ]; then echo "DeepSparse is not available: $$(cat $(DS)/.failed)" >&2; exit 1; fi
	@echo "DeepSparse is ready in $(DS)."

# Never fails, so that the study goes on: the reason is left in .failed. The installation is tried once for each
# state of the list; looking for a Python costs nothing and is done every time.
$(DS)/.tried: requirements/deepsparse.txt
	@rm -rf $(DS); mkdir $(DS); \
	python=$$($(call choose,$(PYTHONS_DEEPSPARSE),8,11)); \
	if [ -z "$$python" ]; then \
	    echo "no Python 3.8 to 3.11 was found (name one with PYTHON_DEEPSPARSE=)" > $(DS)/.failed; exit 0; fi; \
	echo "Making $(DS) with $$("$$python" --version); this takes half a minute, once."; \
	if { "$$python" -m venv $(DS) && $(DS)/bin/python $(INSTALL) -r requirements/deepsparse.txt \
	     && NM_DISABLE_ANALYTICS=True $(DS)/bin/python -c 'import deepsparse'; } > $(DS)/install.log 2>&1; then :; \
	else reason=$$(grep -E '^[A-Za-z.]*(ERROR|Error|Exception)' $(DS)/install.log | tail -n 1); \
	    echo "$${reason:-the installation stopped, see $(DS)/install.log}" > $(DS)/.failed; fi; \
	touch $(DS)/.tried

# ---- Cleaning up ----

clean: ## remove runs/ and caches, keep the environments
	@rm -rf runs build .pytest_cache .ruff_cache
	@find mmalib notebooks tests \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

distclean: clean ## remove the environments too
	@rm -rf .venv $(DS) .venv-incomplete mmalib.egg-info
