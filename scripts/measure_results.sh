#!/usr/bin/env bash
# The figures of docs/results.md: the default model and adapter on the benchmarks, on 2 cores.
#   scripts/measure_results.sh OUTPUT [DATA] [STAGE...]
# OUTPUT gets the rows and, at the end, report/; a stopped run resumes. DATA is the folder with
# the official files (default ../shared/data). STAGES: passkey infinitebench rows longbench needle perplexity; without
# one, all.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
output=${1:?name a folder for the results}
data=${2:-$root/../shared/data}
shift $(($# > 2 ? 2 : $#))
stages=${*:-passkey infinitebench rows longbench needle perplexity}
case ${VENV:=.venv} in /*) ;; *) VENV=$root/$VENV ;; esac
measure() { "$VENV/bin/focusdoc" eval "$@" --resume; }
for stage in $stages; do
  case $stage in
    passkey)
      measure passkey --lengths 4K,16K,64K,128K --limit 5 --chunk-size 2048 --output "$output/passkey"
      measure passkey --lengths 400K --limit 5 --chunk-size 2048 --output "$output/passkey-400k"
      ;;
    infinitebench)
      measure infinitebench --tasks passkey,number_string --lengths 128K --limit 3 --chunk-size 2048 \
        --output "$output/infinitebench"
      measure infinitebench --tasks kv_retrieval --lengths 128K --limit 4 --chunk-size 1024 \
        --output "$output/infinitebench-kv"
      ;;
    rows)
      measure infinitebench --data "$data/infinitebench" --tasks passkey_8192,passkey_16384,passkey_32768 \
        --output "$output/infinitebench-official"
      ;;
    longbench)
      measure longbench --data "$data/longbench" --tasks qasper,narrativeqa --mode focus,split,full,truncated \
        --output "$output/longbench"
      measure longbench --data "$data/longbench" --tasks multi_news --limit 8 --mode split,full,truncated \
        --output "$output/longbench-news"
      # A shorter local context, of which more is in the memory.
      measure longbench --data "$data/longbench" --tasks qasper,narrativeqa --mode split --local-window 2048 \
        --output "$output/longbench-2048"
      measure longbench --data "$data/longbench" --tasks multi_news --limit 8 --mode split --local-window 2048 \
        --output "$output/longbench-news-2048"
      ;;
    needle)
      measure needle --data "$data/books/36_the_war_of_the_worlds.txt" --lengths 4K,8K,16K,32K --mode focus,look \
        --output "$output/needle"
      ;;
    perplexity)
      measure perplexity --data "$data/books" --lengths 4K,16K,32K --limit 3 --mode focus,tail,streaming \
        --output "$output/perplexity"
      ;;
    *) echo "There is no stage $stage." >&2; exit 2 ;;
  esac
done
"$VENV/bin/focusdoc" report "$output" --output "$output/report"
