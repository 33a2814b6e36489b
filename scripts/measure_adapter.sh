#!/usr/bin/env bash
# An adapter beside the retrieval heads of the same model: XQuAD's held-out questions over all its paragraphs, answered by
# the model itself and by a reader, and planted numbers and words.
#   scripts/measure_adapter.sh OUTPUT MODEL ADAPTER [DATA]
# A stopped run resumes. DATA is the folder with books/ and qa/ (default ../shared/data); READER is the reader, LIMIT the
# number of questions.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
output=${1:?name a folder for the results}
model=${2:?name a model}
adapter=${3:?name the folder of its adapter}
data=${4:-$root/../shared/data}
case ${VENV:=.venv} in /*) ;; *) VENV=$root/$VENV ;; esac
mkdir -p "$output"
"$VENV/bin/python" "$root/benchmarks/heldout.py" --data "$data" --model "$model" --adapter "$adapter" \
  --only numbers words --output "$output/planted.json"
natural() {  # NAME ADAPTER MODE READER
  "$VENV/bin/focusdoc" eval natural --data "$data/qa/xquad.en.json" --questions 0.82:1 --limit "${LIMIT:-200}" \
    --model "$model" --adapter "$2" --mode "$3" --reader "$4" --store "$output/store" --resume --output "$output/$1"
}
for which in candidates look; do
  [ $which = look ] && folder=none || folder=$adapter
  natural "$which-alone" "$folder" ask none
  natural "$which-found" "$folder" read none
  natural "$which-read" "$folder" read "${READER:-qwen2.5-coder-1.5b-instruct}"
done
"$VENV/bin/focusdoc" report "$output" --output "$output/report"
