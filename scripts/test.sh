#!/usr/bin/env bash
# Installs everything and runs the tests, those of the integrations as well (under 12 minutes on 2 cores).
# Arguments go to pytest; where one of them is a path, only the tests there are run. WORKERS processes share the tests (2;
# each takes one thread and about 2 GB).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh dev,eval,lm-eval
case ${VENV:=.venv} in /*) ;; *) VENV=$PWD/$VENV ;; esac
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # workers with several threads each would wait for one another
suites=(. integrations/llama-index-llms-focusdoc integrations/langchain-focusdoc)
for argument in "$@"; do
  if [ -e "${argument%%::*}" ]; then suites=(.); fi
done
# The worst of the suites' exit codes; 5, "no tests were selected", counts only where it holds for all.
worst=5
for suite in "${suites[@]}"; do
  echo "== tests of $suite"
  code=0
  (cd "$suite" && "$VENV/bin/python" -m pytest -n "${WORKERS:-2}" --dist loadfile "$@") || code=$?
  if [ "$code" -ne 5 ] && { [ "$worst" -eq 5 ] || [ "$code" -gt "$worst" ]; }; then worst=$code; fi
done
exit "$worst"
