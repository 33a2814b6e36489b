#!/usr/bin/env bash
# Installs everything and runs the main job: three questions to the Python language reference, or your own:
#   scripts/demo.sh [FILE [QUESTION ...]]
# FOCUSDOC_READER selects another model to answer; with none, the small model that finds the passages answers.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
"$root/scripts/setup.sh"
# From the caller's folder, so that FILE means the caller's file.
case ${VENV:=.venv} in /*) ;; *) VENV=$root/$VENV ;; esac
[ -n "${FOCUSDOC_READER:-}" ] || "$VENV/bin/focusdoc" models install qwen2.5-coder-1.5b-instruct ||
  echo "Continuing without the reader model." >&2
exec "$VENV/bin/python" "$root/examples/qa_over_book.py" "$@"
