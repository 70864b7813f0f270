"""One process of several that evaluate a net together on images from files; prints the sums and what it read."""

import json
import sys

import numpy as np
from tools import trajectory

from mnet_jax import config, feed, sharding, step
from mnet_jax.data import load
from mnet_jax.data.dataset import Dataset
from mnet_jax.tasks import classification

BATCH = 8


def main(folder, address, processes, process):
    if int(processes) > 1:
        sharding.init_distributed([address, processes, process])
    cfg = config.at_scale("digits")
    config.override(cfg, trajectory.OVERRIDES | {"model.in_channels": 3, "model.num_classes": 2})
    config.override(cfg, {"data.source": "pictures", "data.dir": folder, "data.size": 16, "data.train_size": 40})
    dataset = load.from_config(cfg.data)
    read, image = [], Dataset.image
    Dataset.image = lambda self, index: read.append(int(index)) or image(self, index)

    mesh = sharding.mesh(1, BATCH, spread_runs=False)
    host = feed.HostFeed(dataset, cfg.data, [0], BATCH, mesh)
    program = step.build(classification.TASK, cfg, 1, dataset.mean, dataset.std, host.steps_per_epoch, mesh)
    state = program.init(sharding.put(mesh, sharding.RUNS, np.zeros(1, np.int32)))
    traced = trajectory.put_traced(mesh, cfg, 1)
    pieces = [program.evaluate(state, traced, (), batches)[0] for batches in host.held_out()]
    sums = {name: sum(float(piece[name][0]) for piece in pieces) for name in pieces[0]}
    held_out = list(read)
    read.clear()
    host.feeds[0].batch(0)
    print(json.dumps({"sums": sums, "held_out": held_out, "trained": read}))


if __name__ == "__main__":
    main(*sys.argv[1:])
