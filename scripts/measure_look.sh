#!/usr/bin/env bash
# Retrieval of models without an adapter by their retrieval heads: XQuAD's held-out questions over all its paragraphs,
# compared with retrieval baselines and the default model's candidates, and needles in a novel. Two hours on two cores,
# mostly reading by the largest model.
#   scripts/measure_look.sh OUTPUT [DATA]
# A stopped run resumes. DATA is the folder with books/ and qa/ (default ../shared/data).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
output=${1:?name a folder for the results}
data=${2:-$root/../shared/data}
case ${VENV:=.venv} in /*) ;; *) VENV=$root/$VENV ;; esac
models=${MODELS:-smollm2-135m-instruct qwen2.5-coder-0.5b-instruct qwen2.5-coder-1.5b-instruct}
run() { "$VENV/bin/focusdoc" eval "$@" --store "$output/store" --resume; }
found() { run natural --data "$data/qa/xquad.en.json" --questions 0.82:1 --limit 200 --reader none "$@"; }
found --mode read,bm25,embedding --output "$output/xquad-candidates"
for model in $models; do
  found --mode read --model "$model" --adapter none --output "$output/xquad-$model"
  run needle --data "$data/books/36_the_war_of_the_worlds.txt" --lengths 4K,8K,16K,32K --mode look --model "$model" \
    --adapter none --output "$output/needle-$model"
done
"$VENV/bin/focusdoc" report "$output" --output "$output/report"
