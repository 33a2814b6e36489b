#!/usr/bin/env bash
# Installs everything and runs the tests (under 12 minutes on 2 cores); arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh dev,eval,lm-eval
exec "${VENV:-.venv}/bin/python" -m pytest "$@"
