"""The curve of a run while it trains: metrics.jsonl, and TensorBoard events beside it."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

from mnet_jax import results


class MetricsLog:
    """A run's metrics.jsonl and, where tensorboardX is installed, the same as TensorBoard events.

    Lines of a killed process after `step` are dropped.
    """

    def __init__(self, folder: Path, step: int):
        self.folder, self.path = folder, folder / "metrics.jsonl"
        self.lines = [line for line in results.read_metrics(folder.parent.parent, folder.name) if line["step"] <= step]
        results.write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in self.lines))
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self.events: Any = None
        with contextlib.suppress(ImportError):
            from tensorboardX import SummaryWriter

            self.events = SummaryWriter(str(folder / "tensorboard"), flush_secs=10)
        for line in self.lines:
            self._write_event(line)

    def append(self, line: dict[str, float]) -> None:
        """Adds a line with "epoch", "step" and metrics by name."""
        self.lines.append(line)
        with results.named_in_errors(self.path), open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        self._write_event(line)

    def _write_event(self, line: dict[str, float]) -> None:
        for name, value in line.items():
            if self.events and name not in ("epoch", "step"):
                self.events.add_scalar(name, value, int(line["step"]))

    def close(self) -> None:
        """Ends the events."""
        if self.events:
            self.events.close()
