#!/usr/bin/env bash
# A TPU VM slice: the same command on every host of it. The repository must be there already, with its environment:
#   gcloud compute tpus tpu-vm ssh NAME --zone ZONE --worker=all --command \
#     'git clone URL mnet_jax && cd mnet_jax && python3 -m venv .venv && .venv/bin/pip install -q ".[tpu]"'
#   launch/tpu_vm.sh NAME ZONE --config experiments/v2_baseline.py:imagenet --workdir /mnt/bucket/v2
# The workdir is a bucket or file system mounted on all hosts. Ended with 75 by a preemption, the same command goes on.
set -euo pipefail
name=${1:?name of the TPU}
zone=${2:?its zone}
shift 2
exec gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all \
  --command "cd mnet_jax && .venv/bin/python -m mnet_jax.main$(printf ' %q' "$@") --distributed"
