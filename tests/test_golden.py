"""A tiny training writes what it always wrote, bit for bit on the kind of machine that wrote the stored numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

CHANGED = """
Training computes something else than before. If no change was meant to, this is a bug: find it. If a change was meant
to alter the arithmetic of training, or its order, say so in CHANGELOG.md, run the experiments again, and store the new
numbers: cd tests; python -m tools.digest {devices} > {path}
"""


@pytest.mark.parametrize(("devices", "kernels"), [(1, "native"), (8, "shift")])
def test_a_tiny_training_writes_what_it_always_wrote(devices, kernels):
    path = TESTS / "golden" / f"{kernels}_{devices}.json"
    stored = json.loads(path.read_text())
    changed = CHANGED.format(devices=devices, path=path.relative_to(TESTS))
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    done = subprocess.run(
        [sys.executable, "-m", "tools.digest", str(devices)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    now = json.loads(done.stdout)
    if now["environment"] == stored["environment"]:
        assert now["runs"] == stored["runs"], changed
    else:
        assert_close(now["runs"], stored["runs"], changed)


def assert_close(now, stored, changed):
    """Within rounding: machines add up in other orders, and an image may change sides."""
    assert now.keys() == stored.keys(), changed
    for name, run in now.items():
        before = stored[name]
        assert (run["madds"], run["fingerprint"]) == (before["madds"], before["fingerprint"]), changed
        for line, was in zip([run["metrics"], *run["lines"]], [before["metrics"], *before["lines"]], strict=True):
            assert line.keys() == was.keys(), changed
            for key, value in line.items():
                close = pytest.approx(was[key], abs=0.01) if "accuracy" in key else pytest.approx(was[key], rel=1e-4)
                assert value == close, f"{name}, {key}{changed}"
