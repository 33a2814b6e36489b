#!/usr/bin/env bash
# A short run of every harness with the default model, two items each, no network: minutes on 2 cores.
#   scripts/smoke_eval.sh OUTPUT [LONGBENCH]
# OUTPUT is a new folder; LONGBENCH is a folder with official files (qasper.jsonl and config/), else two made-up rows
# of the same layout are asked. Further options of focusdoc eval, such as a model, go into OPTIONS.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
output=${1:?name a new folder for the results}
longbench=${2:-$output/longbench-sample}
# shellcheck disable=SC2206  # several options in one variable
options=(--limit 2 ${OPTIONS:-})
case ${VENV:=.venv} in /*) ;; *) VENV=$root/$VENV ;; esac
run() { "$VENV/bin/focusdoc" "$@"; }
mkdir -p "$output"
if [[ $# -lt 2 ]]; then
  mkdir -p "$longbench/config"
  echo '{"qasper": 16}' > "$longbench/config/dataset2maxlen.json"
  echo '{"qasper": "Read the article.\n\nArticle: {context}\n\nQuestion: {input}\n\nAnswer:"}' \
    > "$longbench/config/dataset2prompt.json"
  "$VENV/bin/python" - > "$longbench/qasper.jsonl" <<'ROWS'
import json
from pydoc_data.topics import topics
for number, (topic, name) in enumerate([("debugger", "pdb"), ("naming", "UnboundLocalError")]):
    print(json.dumps({"_id": str(number), "context": topics[topic][:6000], "input": "What is it called?",
                      "answers": [name], "all_classes": None}))
ROWS
fi
natural=$output/natural-sample.json
"$VENV/bin/python" - > "$natural" <<'SQUAD'
import json
from pydoc_data.topics import topics
asked = {"debugger": ("Which function enters the debugger?", "breakpoint()"), "naming": ("What is raised?", "NameError")}
paragraphs = [{"context": topics[topic][:6000], "qas": [
    {"id": topic, "question": question, "answers": [{"text": gold, "answer_start": topics[topic].index(gold)}]}]}
    for topic, (question, gold) in asked.items()]
print(json.dumps({"data": [{"paragraphs": paragraphs}]}))
SQUAD
SECONDS=0
run eval longbench --data "$longbench" --tasks qasper --mode focus,truncated "${options[@]}" \
  --output "$output/longbench"
run eval infinitebench --tasks passkey,number_string,kv_retrieval,math_find,code_run --lengths 1K --mode focus \
  "${options[@]}" --output "$output/infinitebench"
run eval infinitebench --tasks passkey --lengths 4500 --local-window 256 --mode paper "${options[@]}" \
  --output "$output/infinitebench-paper"
run eval passkey --lengths 1K --mode focus,look,full,tail,streaming --local-window 512 "${options[@]}" \
  --output "$output/passkey"
run eval needle --lengths 1K --depths 0,1 "${options[@]}" --output "$output/needle"
run eval natural --data "$natural" --mode ask,read,bm25,embedding --reader none "${options[@]}" --output "$output/natural"
run eval perplexity --lengths 1K,2K --targets 32 --local-window 256 --chunk-sizes 256,512 --mode focus,full,streaming \
  "${options[@]}" --output "$output/perplexity"
run report "$output" --output "$output/report"
echo "Every harness ran in $SECONDS s; the report is $output/report/report.html."
