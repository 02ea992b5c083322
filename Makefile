# Every target sets up what it needs from a bare clone: Python >= 3.10, make and the package registry are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := setup.cfg pyproject.toml

.PHONY: demo test test-all browser lint docs wheel notebooks readme-assets clean

demo: $(VENV)/.installed
	$(BIN)/finercam-clip demo --output finercam-demo.png

# In two processes, a file of tests in one of them: what a file prepares is prepared once.
test: $(VENV)/.installed-test browser
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(VENV)/.installed-test browser
	$(BIN)/python -m pytest -m "slow or not slow"

# For the tests of the page. Where no browser can be had they are skipped.
browser:
	@bash .ci/browser

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Pages and API reference, into site/; a warning is an error (not with --quiet: it would hide them from --strict, too).
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir site
	@echo "site/index.html"

# The package, in dist/
wheel: $(VENV)/.installed-test
	$(BIN)/python -m build

# Every picture and figure of README, docs and model card, or ONLY=demo,methods of them; all takes about an hour.
readme-assets: $(VENV)/.installed-test
	$(BIN)/python docs/assets.py $(ONLY)

# Runs the notebooks anew and writes their outputs into them.
notebooks: $(VENV)/.installed-test
	$(BIN)/python notebooks/execute.py

$(VENV)/.installed: $(SETUP)
	@echo "setting up $(VENV): a few minutes, and about 6 GB where PyTorch comes with CUDA"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	$(call headless_if_needed)
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	$(call headless_if_needed)
	touch $@

$(VENV)/.installed-lint: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test,lint]"
	$(call headless_if_needed)
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	$(call headless_if_needed)
	touch $@

# opencv-python needs the system's libGL. Where that is missing, the headless build takes its place. The two share one
# folder, so both go before the one comes.
define headless_if_needed
$(BIN)/python -c "import cv2" 2>/dev/null || { \
	$(BIN)/python -m pip uninstall --quiet --yes opencv-python opencv-python-headless; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check opencv-python-headless; \
	$(BIN)/python -c "import cv2"; }
endef

clean:
	rm -rf $(VENV) site build dist *.egg-info finercam-demo.png
