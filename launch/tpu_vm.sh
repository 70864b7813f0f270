#!/usr/bin/env bash
# A TPU VM slice: the same command on every host of it. The repository must be there already, with its environment:
#   gcloud compute tpus tpu-vm ssh NAME --zone ZONE --worker=all --command \
#     'git clone URL mnet_jax && cd mnet_jax && python3 -m venv .venv && .venv/bin/pip install -q ".[tpu]"'
#   launch/tpu_vm.sh NAME ZONE --config experiments/v2_baseline.py:imagenet --bucket gs://BUCKET/v2
# Without --bucket, the workdir must be on a file system that all hosts see and that locks files across them (Filestore,
# NFS 4); a mounted bucket does not lock and is refused. Ended with 75 by a preemption, the same command goes on.
set -euo pipefail
name=${1:?name of the TPU}
zone=${2:?its zone}
shift 2
[[ $name != -* && $zone != -* ]] || { echo "$name $zone; allowed: the name of a TPU and its zone" >&2; exit 1; }
exec gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all \
  --command "cd mnet_jax && .venv/bin/python -m mnet_jax.main$(printf ' %q' "$@") --distributed"
