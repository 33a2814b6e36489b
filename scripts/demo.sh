#!/usr/bin/env bash
# Installs everything and runs the main job: three questions to the Python language reference, or your own:
#   scripts/demo.sh [FILE [QUESTION ...]]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
"$root/scripts/setup.sh"
# From the caller's folder, so that FILE means the caller's file.
case ${VENV:=.venv} in /*) ;; *) VENV=$root/$VENV ;; esac
exec "$VENV/bin/python" "$root/examples/qa_over_book.py" "$@"
