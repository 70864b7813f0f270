"""Whatever comes from outside, a command ends with an exit status and, where it refuses, one clear line.

Hypothesis draws the inputs: config values and flags, experiment files, the files of a workdir, and folders of images.
Nothing is trained. Every check has a short form, and one for ten minutes that is marked slow.
"""

import contextlib
import io
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import EXPERIMENT, write

from mnet_jax import arm_cost, config, experiment, laboratory, main, report, results, runtime, status, sweep
from mnet_jax.data import load, prepare

COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
SHORT = settings(max_examples=25, derandomize=True, **COMMON)
LONG = settings(max_examples=1000, **COMMON)
number = itertools.count()


def ends_clearly(call):
    """Runs a command; whatever it raises but a status, or an error of one line, is a failure. Returns the status."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            with runtime.exit_status():
                return call() or 0
        except SystemExit as end:
            code = end.code
    assert code in (0, 1, 2, 75) or str(code).startswith("error: "), code
    assert len(str(code)) < 3000, code
    return code


@pytest.fixture(scope="module", autouse=True)
def nothing_is_measured():
    """Costs and times do not come from outside, and take most of a plan."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laboratory, "minutes", lambda *_: "")
        patch.setattr(
            arm_cost, "_count", lambda cfg, code: ("0", {"madds": 1.0, "params": 1, "images": 1, "resolution": 8})
        )
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


JUNK = ["", "nan", "-1", "0", "1", "1e999", "1e300", "True", "None", "()", "(1,)", "(0, 1)", "{[]: 1}", "[" * 500, "\0"]
JUNK += [
    "../..",
    "~nobody/x",
    "\ud800",
    "x" * 300,
    "-" * 3000 + "1",
    "9" * 50,
    "((1, 4, 10**9, 1),)",
    "digits",
    "spiral",
]
TEXTS = st.sampled_from(JUNK) | st.text(max_size=12) | st.integers().map(str) | st.floats().map(str)
TEXTS |= st.lists(st.sampled_from([0, 1, 2, -1, 0.5, True, "a", ()]), max_size=5).map(lambda values: str(tuple(values)))
FLAGS = [
    "--workers",
    "--workdir",
    "--out",
    "--readme",
    "--devices",
    "--bandwidth",
    "--mode",
    "--config",
    "--config.",
    "-x",
]


def check_config_values(folder, overrides):
    words = [f"--config.{name}={value}" for name, value in overrides]
    ends_clearly(lambda: main.main(["--config", str(write(folder)), "--mode", "plan", *words]))


def check_command_lines(folder, words):
    ends_clearly(lambda: main._check(main.parse(words)[0]))
    if not {"--mode", "--devices"} & set(words):
        ends_clearly(lambda: main.main(["--mode", "status", "--workdir", str(folder / "nothing"), *words]))


SHIPPED = [
    EXPERIMENT,
    *(path.read_text() for path in sorted((Path(__file__).parent.parent / "experiments").glob("*.py"))),
]
TOKENS = [
    "0",
    "1e999",
    "-1",
    "None",
    "()",
    "{}",
    "[]",
    "'x'",
    "1 / 0",
    "exit(0)",
    "lambda: 0",
    "linear",
    "cfg",
    "yield",
]


@st.composite
def experiment_files(draw):
    """A shipped file with some words and lines replaced, left out or said twice."""
    text = draw(st.sampled_from(SHIPPED))
    for _ in range(draw(st.integers(1, 3))):
        pieces = draw(st.sampled_from([r"(\n)", r"(\W)"]))
        parts = re.split(pieces, text)
        place = draw(st.integers(0, len(parts) - 1))
        parts[place] = draw(
            st.sampled_from([*TOKENS, "", parts[place] * 2, parts[draw(st.integers(0, len(parts) - 1))]])
        )
        text = "".join(parts)
    return text


def check_experiment_files(folder, text, scale, mode):
    path = folder / f"file{next(number)}.py"  # a file that was loaded is kept by its path
    path.write_text(text, encoding="utf-8")
    fields = dict(config.FIELDS)

    def plan():
        loaded = experiment.load(path)
        sweep.plan(loaded, scale, {"data.source": "digits", "model.in_channels": "1"}, mode, "")

    try:
        ends_clearly(plan)
    finally:
        config.FIELDS.clear()
        config.FIELDS.update(fields)
        path.unlink()


ROW = {"program": "", "cost": {"madds": 1.0, "params": 1}, "versions": {"jax": "1"}, "overrides": {}, "lr": 0.1}
ROW |= {
    "device": {"platform": "cpu", "kind": "cpu", "count": 1, "threads": 1},
    "timing": {"steps": 1.0},
    "diverged_at": None,
}
ROW |= {"data": {"source": "digits"}, "needs": [], "metrics": {"accuracy": 0.5, "nll": 1.0}}
LINE = {"epoch": 1, "step": 4, "lr": 0.1, "train_loss": 2.0}


@pytest.fixture(scope="module")
def workdir(folder):
    """A workdir with every file that one can have, and their contents."""
    place = folder / "workdir"
    plan = sweep.plan(experiment.load(write(folder)), "digits", {}, "train", "the command")
    results.write_sweep(place, plan)
    for job in plan.jobs:
        arm, (run,) = plan.arm(job.runs[0].arm), job.runs
        names = {"run": run.name, "arm": run.arm, "seed": run.seed, "experiment": plan.experiment, "scale": plan.scale}
        results.write_row(place, {**ROW, **names, "program": job.program, "overrides": arm.overrides, "lr": arm.lr})
        lines = [json.dumps({**LINE, "epoch": epoch, "step": 4 * epoch}) + "\n" for epoch in (1, 2)]
        results.write_atomic(results.run_dir(place, run.name) / "metrics.jsonl", "".join(lines))
        results.write_arrays(place, run.name, {"curve/threshold": np.arange(3.0)})
        results.write_progress(place, job, 3, 12)
    results.write_latencies(place, {arm.name: [0.1, 0.2] for arm in plan.arms})
    return place, {path.relative_to(place): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


VALUES = st.sampled_from([None, {}, [], "", 0, -1, 1.5, True, "x" * 300, [[]], {"a": 1}, float("nan"), 1e300, 10**400])


@st.composite
def damaged_json(draw, value):
    """A value with one part of it left out, added or replaced."""
    value, node = json.loads(value), None
    node = value
    while True:
        key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
            node = node[key]
            continue
        how = draw(st.sampled_from(["replace", "remove", "add"]))
        if how == "remove":
            del node[key]
        elif how == "add" and isinstance(node, dict):
            node["newfield"] = draw(VALUES)
        else:
            node[key] = draw(VALUES)
        return json.dumps(value).encode()


@st.composite
def damaged_bytes(draw, content):
    """Bytes with some of them changed, and perhaps cut short."""
    damaged = bytearray(content)
    for place in draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        damaged[place] = draw(st.integers(0, 255))
    return bytes(damaged[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else damaged)


def check_workdir_files(workdir, data):
    place, files = workdir
    name = data.draw(st.sampled_from(sorted(files)))
    kinds = [damaged_bytes(files[name])] + [damaged_json(files[name])] * (name.suffix == ".json")
    (place / name).write_bytes(data.draw(st.one_of(kinds)))

    def read():
        summary = report.summarize(place)
        report.to_text(summary)
        report.to_markdown(summary)
        for run in summary.sweep.runs:
            results.read_metrics(place, run.name)
            results.read_arrays(place, run.name)

    try:
        ends_clearly(read)
        ends_clearly(lambda: status.describe(place) and 0)
    finally:
        (place / name).write_bytes(files[name])


@pytest.fixture(scope="module")
def images():
    """Encoded images of several formats, by the suffix of their files."""
    from PIL import Image

    encoded = {}
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    for suffix in ("png", "jpg", "bmp", "gif", "tif", "webp"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
        encoded[suffix] = file.getvalue()
    return encoded


def check_image_folders(folder, images, data):
    root = folder / "data"
    name = f"pictures{next(number)}"  # a data set is loaded once
    for split in ("train", "test"):
        for label in ("a", "b"):
            place = root / name / split / label
            place.mkdir(parents=True)
            for suffix in data.draw(st.lists(st.sampled_from(sorted(images)), min_size=1, max_size=2, unique=True)):
                whole = images[suffix]
                content = data.draw(st.just(whole) | damaged_bytes(whole))
                (place / f"image.{suffix}").write_bytes(content)
    extra = data.draw(st.sampled_from(["", "train/c", "train/.hidden", "test/zz", "train/a/folder.png"]))
    (root / name / extra).mkdir(exist_ok=True)
    try:
        if ends_clearly(lambda: prepare.main([name, "--data_dir", str(root)])) == 0:
            ends_clearly(lambda: load.from_name(name, root).in_memory() is None)
    finally:
        shutil.rmtree(root / name)


OVERRIDES = st.lists(st.tuples(st.sampled_from(sorted(config.FIELDS)), TEXTS), min_size=1, max_size=2)
WORDS = st.lists(st.sampled_from(FLAGS) | TEXTS, min_size=1, max_size=4)
SCALES, MODES = st.sampled_from(["digits", "cifar10_quick", "imagenet", "zz"]), st.sampled_from(["train", "tune"])
FILES = experiment_files(), SCALES, MODES

test_config_values = SHORT(given(OVERRIDES)(check_config_values))
test_command_lines = SHORT(given(WORDS)(check_command_lines))
test_experiment_files = SHORT(given(*FILES)(check_experiment_files))
test_workdir_files = SHORT(given(st.data())(check_workdir_files))
test_image_folders = SHORT(given(st.data())(check_image_folders))

test_config_values_at_length = pytest.mark.slow(LONG(given(OVERRIDES)(check_config_values)))
test_command_lines_at_length = pytest.mark.slow(LONG(given(WORDS)(check_command_lines)))
test_experiment_files_at_length = pytest.mark.slow(LONG(given(*FILES)(check_experiment_files)))
test_workdir_files_at_length = pytest.mark.slow(LONG(given(st.data())(check_workdir_files)))
test_image_folders_at_length = pytest.mark.slow(LONG(given(st.data())(check_image_folders)))
