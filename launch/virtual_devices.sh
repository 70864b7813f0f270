#!/usr/bin/env bash
# One process that takes this CPU for N devices: tries a mesh, a batch or a step's communication without the hardware.
#   launch/virtual_devices.sh 16 --config experiments/v2_linear_bottleneck.py --workdir runs/sixteen
set -euo pipefail
devices=${1:?how many devices}
shift
JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=$devices exec python -m mnet_jax.main --workers 1 "$@"
