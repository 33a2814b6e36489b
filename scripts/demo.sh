#!/usr/bin/env bash
# Installs everything and runs the main job: three questions to the Python language reference, or your own:
#   scripts/demo.sh [FILE [QUESTION ...]]
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
exec "${VENV:-.venv}/bin/python" examples/qa_over_book.py "$@"
