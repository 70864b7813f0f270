"""One process of several that evaluate a net together on images from files; prints the sums and what it read."""

import json
import sys

import jax
import numpy as np
import trajectory

from mnet_jax import config, inputs, sharding, step
from mnet_jax.data import dataset, load

BATCH = 8


def main(folder, address, processes, process):
    if int(processes) > 1:
        sharding.start([address, processes, process])
    cfg = config.at_scale("digits")
    config.override(cfg, trajectory.OVERRIDES | {"model.in_channels": 3, "model.num_classes": 2})
    config.override(cfg, {"data.source": "pictures", "data.dir": folder, "data.size": 16, "data.train_size": 40})
    source = load.from_config(cfg.data)
    read, image = [], dataset.Dataset.image
    dataset.Dataset.image = lambda self, index: read.append(int(index)) or image(self, index)

    mesh = sharding.mesh(1, BATCH, spread_runs=False)
    fed = inputs.Streamed(source, cfg.data, [0], BATCH, mesh)
    program = step.build(cfg, 1, source.mean, source.std, fed.per_epoch, mesh)
    state = program.init(sharding.put(mesh, sharding.RUNS, np.zeros(1, np.int32)))
    knobs = jax.tree.map(lambda k: sharding.put(mesh, sharding.RUNS, np.full(1, k, np.float32)), config.knobs(cfg))
    pieces = [program.evaluate(state, knobs, (), own) for own in fed.held_out()]
    sums = {name: sum(float(piece[name][0]) for piece in pieces) for name in pieces[0]}
    held_out = list(read)
    read.clear()
    fed.feeds[0].batch(0)
    print(json.dumps({"sums": sums, "held_out": held_out, "trained": read}))


if __name__ == "__main__":
    main(*sys.argv[1:])
