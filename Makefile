# Two commands do all the set-up: `make demo` and `make test`. Both make the environment first where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKSPACE ?= concord-demo

# The OpenMP threads of torch sleep while they wait, so that a busy machine slows down gently.
export OMP_WAIT_POLICY = PASSIVE

.PHONY: demo test lint docs clean chromium bench bench-consensus bench-control-room bench-demo bench-evaluation \
  bench-evaluation-real bench-load bench-plan bench-ppo \
  bench-ppo-learning bench-reward bench-reward-labels bench-reward-text bench-reward-trust

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(VENV)/.installed ## run the whole loop on the demo language, then serve the UI on http://127.0.0.1:7860
	$(BIN)/concord demo --workspace $(WORKSPACE)

chromium: ## the browser that the tests drive: Debian's package, unless one is there already
	@command -v chromium >/dev/null || test -n "$$CONCORD_CHROMIUM" || \
	  { echo "Installing Chromium for the browser tests"; \
	    if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq chromium; \
	    else sudo apt-get update -qq && sudo apt-get install -y -qq chromium; fi; }

# Two processes share the files out, the longest first. What clicks and waits as people do has no trainings beside it.
SHARED := -n 2 --dist loadfile --no-loadscope-reorder
LONGEST := $(patsubst %,tests/test_%.py,sharded ppo_resume reward_training plan ppo)

test: $(VENV)/.installed chromium ## unit tests, the whole loop on a tiny setting, and the browser tests
	$(BIN)/python -m pytest $(SHARED) --ignore tests/e2e --ignore tests/test_load.py $(LONGEST) tests
	$(BIN)/python -m pytest $(SHARED) tests/test_load.py tests/e2e/test_control_room.py tests/e2e

lint: $(VENV)/.installed ## ruff, pyright and the floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/test_floors.py

docs: $(VENV)/.installed ## figures and the command reference, made from the code
	$(BIN)/python -m docs.build
	$(BIN)/python -m benchmarks.consensus_example docs/concepts/consensus-example.svg

bench: bench-consensus ## the comparisons that the documentation quotes

$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	touch $@

bench-consensus: $(VENV)/.bench ## consensus against what a user could install instead
	$(BIN)/python -m benchmarks.consensus

.peer/.installed: ## TRL 1.12, the last with a PPO trainer, in an environment of its own
	$(PYTHON) -m venv .peer
	.peer/bin/python -m pip install --quiet torch==2.13.0 trl==1.12.0 peft datasets accelerate pandas rich
	touch $@

bench-ppo: $(VENV)/.installed .peer/.installed ## PPO against TRL 1.12's trainer: speed and memory
	$(BIN)/python -m benchmarks.ppo --peer-python .peer/bin/python

bench-ppo-learning: $(VENV)/.installed ## what critic, KL penalty and layers do to learning, on the demo
	$(BIN)/python -m benchmarks.ppo_learning

bench-plan: $(VENV)/.installed ## planned memory against measured peaks of small models
	$(BIN)/python -m benchmarks.plan

bench-demo: $(VENV)/.installed ## the figures of the demo for three seeds
	$(BIN)/python -m benchmarks.demo

bench-load: $(VENV)/.installed ## 200 labelers at once against a served instance that is killed ten times
	$(BIN)/python -m benchmarks.load

bench-control-room: $(VENV)/.installed ## what 20 open control rooms cost the server, and how late they are
	$(BIN)/python -m benchmarks.control_room

bench-reward: $(VENV)/.installed ## the reward trainer against TRL's own on the same pairs
	$(BIN)/python -m benchmarks.reward

bench-reward-trust: $(VENV)/.installed ## accuracy, calibration and soft labels of the reward model on the demo
	$(BIN)/python -m benchmarks.reward --demo

bench-reward-labels: $(VENV)/.installed ## what consensus, majority and true labels are worth to the reward model
	$(BIN)/python -m benchmarks.reward --labels

bench-evaluation: $(VENV)/.installed ## scoring speed, the intervals' coverage, the Review page in a browser
	$(BIN)/python -m benchmarks.evaluation speed coverage page

bench-evaluation-real: $(VENV)/.installed ## alignment on real toxic prefixes; DATA names the folder with paradetox/
	$(BIN)/python -m benchmarks.evaluation_real --data "$(DATA)"

bench-reward-text: $(VENV)/.installed ## a reward model on real text; DATA names the folder with paradetox/
	$(BIN)/python -m benchmarks.reward --text "$(DATA)"

clean:
	rm -rf $(VENV) build dist *.egg-info
