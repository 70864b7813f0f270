#!/usr/bin/env bash
# One job over hosts that plain ssh reaches, one process each; the first host is also where they meet.
#   HOSTS="node1 node2" launch/ssh.sh --config experiments/v2_baseline.py:imagenet --workdir /shared/v2
# Every host has the repository at this path, its environment in .venv, and sees the workdir.
set -euo pipefail
read -ra hosts <<<"${HOSTS:?the hosts, separated by spaces}"
port=${MNET_JAX_PORT:-41234}
[[ $port =~ ^[0-9]+$ ]] || { echo "MNET_JAX_PORT=$port; allowed: a number" >&2; exit 1; }
address=${hosts[0]#*@}:$port
ids=()
for process in "${!hosts[@]}"; do
  # -tt: the remote process hears the hang-up when this script ends
  command="cd $(printf %q "$PWD") && .venv/bin/python -m mnet_jax.main$(printf ' %q' "$@" --distributed "$address")"
  ssh -tt -- "${hosts[process]}" "$command ${#hosts[@]} $process" </dev/null &
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
