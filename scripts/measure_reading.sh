#!/usr/bin/env bash
# The figures of docs/reading.md: natural questions about novels, encyclopedia passages and manuals compared with retrieval
# and the same reader, facts in wordings that no template has, unanswerable questions, and two-hop questions. About seven
# hours on two cores.
#   scripts/measure_reading.sh OUTPUT [DATA]
# A stopped run resumes. DATA is the folder with books/, pdf/ and qa/ (default ../shared/data); READER
# is the model that answers.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
output=${1:?name a folder for the results}
data=${2:-$root/../shared/data}
case ${VENV:=.venv} in /*) ;; *) VENV=$root/$VENV ;; esac
reader=${READER:-qwen2.5-coder-1.5b-instruct}
natural() {  # the answers, and beside them the finding alone: with a reader, sources are sentences
  local name=$1
  shift
  for who in "$reader" none; do
    modes=read,bm25,embedding
    [ "$who" = none ] || modes=$modes,place
    "$VENV/bin/focusdoc" eval natural --reader "$who" --mode "$modes" --store "$output/store" --resume \
      --output "$output/$name-$([ "$who" = none ] && echo found || echo read)" "$@"
  done
}
natural xquad --data "$data/qa/xquad.en.json" --questions 0.82:1 --limit 200
natural nq --data "$data/qa/nq-open-oracle.jsonl.gz" --questions 0.8:1 --limit 200
natural novels --data "$data/qa/novels.json" --documents "$data/books" --questions 0.5:1
natural five_novels --data "$root/benchmarks/novels.json" --documents "$data/books"
manuals=$output/files/manuals
mkdir -p "$manuals"
cp "$data/pdf/i1040nr.pdf" "$manuals"
"$VENV/bin/python" -c "from focusdoc.evaluation.loading import long_texts; print(next(long_texts(None)).text)" \
  > "$manuals/python_reference.txt"
natural manuals --data "$root/benchmarks/manuals.json" --documents "$manuals"
for name in wordings two_hop; do
  [ $name = wordings ] && option=--output || option=--write
  "$VENV/bin/python" "$root/benchmarks/$name.py" --data "$data" $option "$output/files/$name"
  natural $name --data "$output/files/$name/questions.json" --documents "$output/files/$name"
done
run() { "$VENV/bin/python" "$root/benchmarks/$1.py" --reader "$reader" --store "$output/store" "${@:2}"; }
run judging --data "$data" --output "$output/judging.json"
run two_hop --data "$data" --output "$output/two_hop.json"
"$VENV/bin/focusdoc" report "$output" --output "$output/report"
