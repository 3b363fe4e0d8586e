# Two commands matter at first: make medium, then make test. `make` alone lists them all.
.DEFAULT_GOAL := help
PY := .venv/bin/python
# Someone's packages from elsewhere would shadow the locked ones.
unexport PYTHONHOME PYTHONPATH

# What `make grade` hands on when it is set: SUBMISSIONS=dir becomes --submissions dir.
handed_on = $(if $($(1)),--$(2) "$($(1))")
GRADING = $(call handed_on,SUBMISSIONS,submissions) $(call handed_on,OUT,out) \
	$(call handed_on,RUBRIC,rubric) $(call handed_on,PRIVATE,private) \
	$(call handed_on,SCHEDULER,scheduler)

##@ To run it

help: ## Print this list
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^##@ / { print ""; print substr($$0, 5) ":" } \
		/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' Makefile

doctor: ## Look at this computer: what is in the way, and how to mend it
	@sh scripts/doctor.sh

medium: ready-medium ## Run the medium service on port 8000, or on PORT=9000
	@exec $(PY) -m shared.serve medium.app.main:app

advanced: ready-all ## Run the hardened service on port 8000, or with WORKERS=2
	@exec $(PY) -m advanced.serve

user: ready-all ## Make a user of the advanced service: make user NAME=carol
	@$(PY) -m advanced.app.users $(NAME)

test: ready-all ## Run every test, or ARGS="tests/docs -k link"
	@$(PY) -m pytest -n auto --dist loadfile $(ARGS)

capstone: ready-all ## Run all advanced solutions at once: two replicas and a proxy
	@exec $(PY) -m capstone

clean: ## Remove the virtual environment and everything cached
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

##@ For students

grade: ready-all ## Grade your answer: EX=medium/ex02; a class: SUBMISSIONS=
	@$(PY) -m grader grade $(EX) $(GRADING) $(ARGS)

serve: ready-all ## Run your answer to an exercise on port 8000: EX=medium/lab
	@exec $(PY) -m exercises.serve $(EX)

hint: ready-all ## Give the next hint: EX=medium/ex02
	@$(PY) -m grader hint $(EX)

watch: ready-all ## Grade again on every save: EX=medium/ex02
	@$(PY) -m grader watch $(EX)

checkpoint: ready-all ## A lab at the end of part N=3; N=0: its starter. EX=medium/lab
	@$(PY) -m scripts.checkpoint "$(or $(EX),medium/lab)" "$(N)"

progress: ready-all ## Show all exercises, your scores and the hints you took
	@$(PY) -m grader progress $(EX)

submit: ready-all ## Pack your answers, to hand them in: NAME=alice
	@$(PY) -m grader submit $(EX) $(if $(NAME),--name "$(NAME)") $(if $(OUT),--out "$(OUT)")

##@ For trainers

kit: ready-all ## Make the students' copy of the course: OUT=a new folder
	@$(PY) -m grader kit $(OUT)

example: ready-all ## Write a known-wrong answer: EX=medium/lab CASE= OUT=
	@$(PY) -m scripts.misconceptions "$(EX)" "$(CASE)" "$(OUT)"

offline-pack: ready-all ## Collect all packages for a room without internet: OUT=
	@$(PY) -m scripts.offline_pack "$(OUT)" $(ARGS)

gradescope: ready-all ## Make a Gradescope autograder: OUT=a new folder
	@$(PY) -m grader gradescope $(EX) $(call handed_on,OUT,out)

##@ For whoever changes the course

check: ready-all ## Check style, types, imports between packages, and the docs
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports --no-logo
	@$(PY) -m scripts.check_docs

format: ready-all ## Rewrite the code, in the docs too, in the project's style
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

docs: ready-all ## Write anew what the docs take from the code
	@$(PY) -m scripts.generate_docs

docs-test: ready-all ## Follow every page as a reader does, or ARGS="-k ex02"
	@$(PY) -m pytest tests/docs $(ARGS)

starters: ready-all ## Note the starters as they are now, after a change to one
	@$(PY) -m grader.starters

verify: ready-all ## Hold the exercises, or EX=medium/ex02, to their matrix
	@$(PY) -m grader verify $(EX) $(ARGS)

verify-class: ready-all ## Grade a made-up class of 40, or CLASS_OF=20, and compare
	@$(PY) -m pytest -n0 -o faulthandler_timeout=0 tests/grader/whole_class.py $(ARGS)

verify-full: ready-all verify ## Verify all, and a class of 200, here and on a cluster
	@CLASS_OF=200 CLASS_HAS=everything $(MAKE) --no-print-directory verify-class

mutants: ready-all ## Break the solutions, and count what the suites notice
	@$(PY) -m grader mutants $(EX)

test-containers: ready-all ## Build and start the containers, and ask them; needs Docker
	@$(PY) -m pytest tests/deploy/containers.py $(ARGS)

test-offline: ready-all ## Install from an offline pack; needs the internet once
	@$(PY) -m pytest tests/foundation/offline.py $(ARGS)

bench: ready-all ## Compare the speed of the service with two baselines
	@$(PY) -m bench $(ARGS)

bench-capstone: ready-all ## Measure the capstone: one replica, two, and one that dies
	@$(PY) -m capstone.measure $(ARGS)

bench-grader: ready-all ## Measure submissions a minute, beside a pytest each
	@$(PY) -m grader bench $(or $(EX),medium/lab)

lock: ## Choose new versions of all packages; needs uv
	@sh scripts/lock.sh

ready-%:
	@sh scripts/setup.sh $*

.PHONY: help doctor medium advanced user test capstone clean grade serve hint watch checkpoint \
	progress submit kit example offline-pack gradescope check format docs docs-test starters verify \
	verify-class verify-full mutants test-containers test-offline bench bench-capstone bench-grader lock
