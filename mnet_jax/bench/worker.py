"""The process of a contender: `python -m mnet_jax.bench.worker`, which `harness` starts."""

import importlib
import json
import os
import sys
import time
from typing import Any

from mnet_jax import runtime
from mnet_jax.bench.harness import Run, describe
from mnet_jax.bench.regime import Regime


def load(workload: str, task: dict[str, Any]) -> dict[str, Run]:
    """{case: run} of a workload; its libraries are imported here, after the allocator is set."""
    file, _, function = workload.rpartition(".")
    arguments = task | ({"regime": Regime(*task["regime"])} if "regime" in task else {})
    return getattr(importlib.import_module(f"mnet_jax.bench.{file}"), function)(**arguments)


def main() -> None:
    """Reads the workload from the first line of stdin, then answers one request a line until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with answers
    first = json.loads(sys.stdin.readline())
    if runtime.wanted(runtime.KEEP_MEMORY) and runtime.on_cpu():
        runtime.keep_memory()
    runs: dict[str, Run] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            runs = load(**first) if runs is None else runs
            begin = time.perf_counter()
            runs[request["case"]](request["calls"])
            answer = {"seconds": time.perf_counter() - begin}
        except Exception as error:
            answer = {"failed": describe(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
