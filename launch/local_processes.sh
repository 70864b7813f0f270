#!/usr/bin/env bash
# N processes of one job on this box, joined over loopback: one a GPU, or on a CPU to try what many hosts will do.
#   launch/local_processes.sh 2 --config experiments/v2_linear_bottleneck.py
# Ctrl-C reaches all of them: they leave a checkpoint and end with 75, and the same command goes on.
set -euo pipefail
processes=${1:?how many processes}
shift
[[ $processes =~ ^[1-9][0-9]*$ ]] || { echo "$processes processes; allowed: a number" >&2; exit 1; }
address=127.0.0.1:${MNET_JAX_PORT:-41234}
ids=()
for ((process = 0; process < processes; process++)); do
  export CUDA_VISIBLE_DEVICES=$process # means nothing on a CPU
  python -m mnet_jax.main "$@" --distributed "$address" "$processes" "$process" &
  ids+=($!)
done
trap 'kill -TERM "${ids[@]}" 2>/dev/null' INT TERM
status=0
for id in "${ids[@]}"; do
  code=0
  wait "$id" || code=$?
  while kill -0 "$id" 2>/dev/null; do # a signal ended the waiting, not the process
    code=0
    wait "$id" || code=$?
  done
  ((code > status)) && status=$code
done
exit "$status"
