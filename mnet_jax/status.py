"""What of a workdir is finished, in progress and left, from its files alone: for another terminal, or another host."""

import time
from pathlib import Path

from mnet_jax import results

SILENT_SECONDS = 120
"""Progress that is older is no longer shown as at work."""


def describe(workdir: Path) -> str:
    """A line with the counts of runs and jobs, and one for each job in progress; UserError as `results.read_sweep`."""
    sweep = results.read_sweep(workdir)
    done, diverged, left = 0, 0, 0
    lines = []
    for job in sweep.jobs:
        finished = [run for run in job.runs if results.is_done(workdir, run.name)]
        done += len(finished)
        diverged += sum(results.read_row(workdir, sweep, run)["diverged_at"] is not None for run in finished)
        if len(finished) == len(job.runs):
            continue
        left += 1
        if progress := results.read_progress(workdir, job.name):
            seconds = max(0.0, time.time() - progress["time"])
            at = f"  {job.name}: step {progress['step']:,} of {progress['steps']:,}, process {progress['process']} "
            at += f"at {progress['host']}, {seconds:.0f} s ago"
            lines.append(at + (" (stopped, or stuck)" if seconds > SILENT_SECONDS else ""))
    runs = f"{done} of {len(sweep.runs)} runs are finished" + (f", {diverged} of them diverged" if diverged else "")
    rest = f"{left} of {len(sweep.jobs)} jobs are left" if left else "nothing is left"
    return "\n".join([f"{workdir}: {sweep.experiment}:{sweep.scale}, {runs}; {rest}", *lines])
