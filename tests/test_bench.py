"""Benchmarks at toy size: what is counted and divided, and contenders that fail."""

import functools
import json
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from tiny import OVERRIDES, write

from mnet_jax import cost, figures, results, sweep
from mnet_jax.bench import __main__ as door
from mnet_jax.bench import (
    command,
    contest,
    correct,
    depthwise,
    determinism,
    inference,
    ops,
    peers,
    profile,
    roofline,
    seeds,
    step,
)
from mnet_jax.bench.contest import Entrant, Settings, Times
from mnet_jax.bench.step import Regime

QUICK = Settings(rounds=2, turn=0.001)
TINY = {key.removeprefix("model."): value for key, value in OVERRIDES.items() if key.startswith("model.")}
REGIMES = {"tiny": Regime(TINY | {"num_classes": 3}, 8, 4)}


def test_ratios_are_those_of_the_same_round():
    ours, other = Times(seconds=[1.0, 2.0, 4.0]), Times(seconds=[2.0, 16.0, 4.0])
    assert contest.ratio(other, ours) == (2.0, 1.0, 8.0)
    assert ours.median == 2.0


def test_a_table_names_who_failed_and_compares_the_others():
    times = {
        "ours": Times(first=3.0, again=1.0, seconds=[0.5, 0.25]),
        "slow": Times(first=2.0, seconds=[1.0, 1.0]),
        "absent": Times(failed="not installed: torch"),
    }
    table, bars = contest.compare("a step", times, images=8)
    assert all(len(row) == len(table.header) for row in table.rows)
    ours, slow, absent = table.rows
    assert ours[:4] == ("ours", "375", "250 - 500", "21")
    assert ours[-2:] == ("3.0", "1.0")
    assert slow[4:6] == ("3.00", "2.00 - 4.00")
    assert absent[1] == "not installed: torch"
    assert bars == {"ours": (375.0, 250.0, 500.0), "slow": (1000.0, 1000.0, 1000.0)}
    assert table.markdown().splitlines()[2].startswith("|  | ms | min - max |")


def test_without_our_own_time_there_is_no_ratio():
    times = {"ours": Times(failed="crashed"), "other": Times(seconds=[1.0])}
    assert contest.compare("a step", times, 1)[0].rows[1][4:6] == ("", "")


FAKE = """#!{python}
import json, os, sys, time
work = json.loads(sys.stdin.readline())["work"]
for number, line in enumerate(sys.stdin):
    if work == "crashes" and number == 3:
        sys.exit("out of luck")
    if work == "is killed":
        os.kill(os.getpid(), 9)
    if work == "hangs":
        time.sleep(60)
    answer = {{"seconds": 2.0 * json.loads(line)["calls"]}}
    if work == "is missing":
        answer = {{"failed": "not installed: torch"}}
    print(json.dumps(answer), flush=True)
"""


def test_contenders_that_fail_do_not_stop_the_others(tmp_path, capsys):
    interpreter = tmp_path / "python"
    interpreter.write_text(FAKE.format(python=sys.executable))
    interpreter.chmod(0o755)
    works = ("crashes", "is killed", "hangs", "is missing", "works")
    entrants = {work: Entrant(work, {}, "train", peer=True) for work in works}
    settings = QUICK._replace(peers_python=str(interpreter), start_limit=5.0)
    times = contest.contest(entrants, settings, "test", again=["works"])
    assert [times[work].failed for work in works] == [
        "exit status 1: out of luck",
        "killed by signal 9",
        "no answer within 5 s",
        "not installed: torch",
        "",
    ]
    assert [times[work].seconds for work in works] == [[], [], [], [], [2.0, 2.0]]
    assert times["works"].again is not None
    assert "test: round 2 of 2" in capsys.readouterr().err


def test_the_floor_is_the_one_worked_out_by_hand():
    """224, batch 8 at 390 GFLOP/s and 42 GiB/s: 34.5 ms of products, and 12 passes of 4.7 ms."""
    regime = step.REGIMES["224, batch 8"]
    counted = cost.count(step.settled(regime.task).model, regime.resolution, bytes_per_element=4)
    machine = roofline.machine(2.0**36 / 195e9, 0.5 / 42, roofline.sizes("float32", cpu=True))
    assert machine == pytest.approx((195e9, 42 * 2**30))
    twelve, six = (1e3 * roofline.floor(counted, 8, passes, machine) for passes in (12, 6))
    assert twelve == pytest.approx(91, abs=1)
    assert twelve - six == pytest.approx(6 * 4.73, abs=0.1)


@pytest.mark.parametrize(
    "regime", [*step.REGIMES.values(), *step.ONE_CORE.values(), step.GPU["224, float32, batch 256"]]
)
def test_peers_have_the_same_network(regime):
    ours = cost.count(step.settled(regime.task).model, regime.resolution)
    theirs = cost.count(
        peers._plain_nnx(regime.task), input_shape=(regime.resolution,) * 2 + (ours.layers[0].input_shape[2],)
    )
    assert (theirs.madds, theirs.params_trainable) == (ours.madds, ours.params_trainable)


def test_depthwise_shapes_are_those_of_the_paper():
    rows = [(112, 32, 1), (112, 96, 2), (56, 144, 1), (56, 144, 2), (28, 192, 1), (28, 192, 2)]
    rows += [(14, 384, 1), (14, 576, 1), (14, 576, 2), (7, 960, 1)]
    assert ops.shapes() == rows


def test_one_core(capsys):
    """Whole processes: ours takes a step, PyTorch is not there, or takes one too."""
    result = step.measure_one_core(QUICK, REGIMES)
    (ours, torch, kept), times = result.tables[0].rows, result.raw["tiny"]
    assert len(times[step.OURS]["seconds"]) == 2
    assert min(times[step.OURS]["seconds"]) > 0
    assert (ours[0], torch[0], kept[0]) == ("mnet_jax", "torch", "torch, allocator set")
    assert torch[1] == "not installed: torch" or float(torch[1]) > 0
    assert "first call after" in capsys.readouterr().err


def test_latencies_of_an_experiments_arms(tmp_path, capsys):
    """Into the workdir, whose report then has them; that of another experiment is refused."""
    path = write(tmp_path)
    plan = sweep.plan(sweep.load(path), "digits", {}, "train", "")
    printed = {"linear": {"latency_ms": 75}, "relu6": {"latency_ms": 150}}
    table = inference.latencies(replace(plan, claim=replace(plan.claim, printed=printed)), QUICK).tables[0]
    assert table.header[-2:] == ["the paper's ms", "/ linear"]
    assert [row[-2:] for row in table.rows] == [["75", "1.00"], ["150", "2.00"]]
    workdir = tmp_path / "workdir"
    results.write_sweep(workdir, plan)
    door.main(["--config", str(path), "--workdir", str(workdir), "--rounds", "2"])
    measured = results.read_latencies(workdir)
    assert list(measured) == ["linear", "relu6"]
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in measured.values())
    assert "tiny:digits, an image at a time on one core" in capsys.readouterr().out
    results.write_sweep(workdir, replace(plan, experiment="another"))
    with pytest.raises(ValueError, match="holds another:digits, not tiny:digits"):
        door.main(["--config", str(path), "--workdir", str(workdir)])


def test_latencies_need_networks_and_an_experiment(tmp_path):
    with pytest.raises(ValueError, match="manifold_spiral:digits has no networks to time"):
        door.main(["--config", str(contest.ROOT / "experiments" / "manifold_spiral.py")])
    with pytest.raises(ValueError, match="is of --config FILE"):
        door.main(["--workdir", str(tmp_path)])


@pytest.mark.slow
def test_time_by_type_of_layer():
    result = inference.network("mobilenet_v1", QUICK, 32, 1, {"width": 0.25})
    table = result.tables[1]
    assert [row[:2] for row in table.rows] == [
        ("whole network", ""),
        ("conv", "1"),
        ("depthwise conv", "13"),
        ("1x1 conv", "13"),
        ("dense", "1"),
    ]
    assert sum(float(row[-1].rstrip("%")) for row in table.rows[1:]) == pytest.approx(100, abs=0.3)


def test_contenders_in_one_process_take_turns_and_may_fail():
    turns = []

    def run(name, calls):
        turns.append(name)
        if name == "breaks" and len(turns) > 5:
            raise MemoryError("out of memory\nwith a long tail")

    runs = {name: functools.partial(run, name) for name in ("works", "breaks")}
    times = contest.alternate(runs, QUICK, "test")
    assert turns == ["works"] * 2 + ["breaks"] * 2 + ["works", "breaks", "works"]
    assert times["breaks"].failed == "MemoryError: out of memory"
    assert (times["breaks"].seconds, len(times["works"].seconds)) == ([], 2)


@pytest.fixture
def small_probes(monkeypatch):
    monkeypatch.setattr(roofline, "GEMM_SIZE", 8)
    monkeypatch.setattr(roofline, "COPY_BYTES", 1 << 12)


def test_depthwise_against_its_bytes(small_probes):
    """16 pixels and 4 of 8 x 2 numbers; the fastest of a class is that of the geometric mean."""
    shape, other = ops.Shape(4, 2, 2), ops.Shape(2, 2, 2)
    regime = depthwise.Regime((), "float32", batch=8)
    assert depthwise._bytes(shape, regime) == 8 * 2 * (16 + 4) * 4
    assert depthwise._bytes(shape, regime._replace(dtype="bfloat16")) == 8 * 2 * (16 + 4) * 2
    seconds = {"lax": (1.0, 9.0), "shift": (2.0, 2.0), "pallas": (1.0, 1.0)}
    times = {
        of: {f"{which}, {way}": Times(seconds=[took[number]]) for way, took in seconds.items() for which in ops.PASSES}
        for number, of in enumerate((shape, other))
    }
    times[other]["forward, pallas"] = Times(failed="refused")
    rows = depthwise._winners("", times, {shape: 1.0, other: 0.5}).rows
    small = {row[1]: row[2:] for row in rows if row[0] == "small, stride 2"}
    assert small["forward"] == ("4.24", "2.83", "", "shift")
    assert small["gradient to input"] == ("4.24", "2.83", "1.41", "pallas")
    assert small["all three"] == ("4.24", "2.83", "", "shift")
    assert {row[-1] for row in rows if row[0] != "small, stride 2"} == {""}
    result = depthwise.measure(
        QUICK, {"tiny": depthwise.Regime((), "float32", 2, working_set=1000)}, [ops.Shape(5, 3, 2)]
    )
    forward = dict(zip(result.tables[0].header, result.tables[0].rows[0], strict=True))
    assert {"lax (us)", "shift (us)"} <= forward.keys()
    assert len(result.raw["tiny"]["5x5x3, stride 2"]["gradient to kernel, lax"]["seconds"]) == QUICK.rounds


def test_layers_of_both_networks_from_large_to_small():
    found = depthwise.shapes(depthwise.NETWORKS)
    assert set(found) > set(ops.shapes())
    assert (found[0], found[-1]) == (ops.Shape(112, 32, 1), ops.Shape(7, 1024, 1))
    assert len(found) == len(set(found)) == 18


def test_relative_errors():
    one, two = {"a": np.float32(3.0), "b": np.ones(4)}, {"a": np.float32(3.0), "b": np.zeros(4)}
    assert correct.relative(two, one) == pytest.approx(2 / 13**0.5)
    assert np.isnan(correct.relative({"a": np.nan, "b": np.ones(4)}, one))


def test_a_first_step_against_float64():
    """The errors are of the arithmetic's size, so the two programs had the same weights and images."""
    result = correct.measure(QUICK, REGIMES, batch=2, of=[ops.Shape(5, 3, 2)])
    layers, steps = result.raw["depthwise"], result.raw["tiny"]
    for way in ("lax", "shift"):
        assert 0 < max(layers[f"{way}, float32, highest precision"].values()) < 1e-6
        assert 1e-4 < max(layers[f"{way}, bfloat16"].values()) < 1e-2
        assert 0 < max(steps[f"cpu, {way}, float32, highest precision"].values()) < 1e-5
        assert 1e-3 < steps[f"cpu, {way}, bfloat16"]["statistics"] < 1e-1
    verdicts = {row[2]: row[-1] for row in result.tables[1].rows}
    assert verdicts == {"float32, highest precision": "yes", "float32, default precision": "", "bfloat16": ""}


def test_a_trace_is_read_by_instruction():
    def event(dur, name="a thread", tid=1, **args):
        return {"ph": "X", "pid": 1, "tid": tid, "name": name, "dur": dur, "args": args}

    events = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "/device:GPU:0"}},
        {"ph": "M", "pid": 1, "tid": 2, "name": "thread_name", "args": {"name": "Stream #14(Compute)"}},
        event(20.0, hlo_op="fusion.3"),
        event(10.0, "loop_fusion", 2, hlo_op="fusion.3"),
        event(90.0, hlo_op="while.1"),
        event(50.0),
        event(5.0, "sm90_gemm", 2),
    ]
    assert profile.read({"traceEvents": events}) == {"fusion.3": 30 / profile.STEPS, "sm90_gemm": 5 / profile.STEPS}
    assert profile.origin("jit(train)/while/body/transpose(jvp())/dot_general") == "backward dot_general"
    assert profile.origin("jit(train)/while/body/jvp()/add") == "add"


@pytest.mark.slow
def test_the_parts_of_an_accelerator(small_probes):
    """What a GPU is measured by, on a CPU."""
    several = seeds.measure_gpu(QUICK, REGIMES)
    assert [row[0] for row in several.tables[0].rows] == ["1", "4", "16", "64"]
    assert all(float(row[4]) > 0 for row in several.tables[0].rows)
    table, by_operation, by_instruction = profile.measure(QUICK, REGIMES).tables
    assert float(table.rows[0][0]) > 0
    assert any("dot_general" in row[0] for row in by_operation.rows)
    assert len(by_instruction.rows[0]) == len(by_instruction.header)
    steps, infer = step.measure_gpu(QUICK, REGIMES), inference.measure_gpu(QUICK, REGIMES)
    for result in (steps, infer):
        assert {"mnet_jax", "mnet_jax, shift"} <= result.bars["tiny"].keys()
        assert result.raw["tiny"]["mnet_jax, pallas"]["failed"].startswith("ValueError: formulation='pallas' cannot")
        assert all(entry["seconds"] or entry["failed"] for entry in result.raw["tiny"].values())


@pytest.mark.slow
def test_the_same_bits_again(tmp_path):
    """Twice, and stopped and resumed; each run by itself differs by rounding."""
    command = ("--config", str(write(tmp_path)), "--workers", "1")
    again, resumed, single = determinism.measure(QUICK, command, runs=4, long=200).tables[0].rows
    assert again[1:] == resumed[1:] == ("4", "4 of 4", "0")
    assert float(single[3]) < 1e-4


@pytest.mark.slow
def test_every_part():
    steps = step.measure(QUICK, REGIMES)
    assert steps.tables[0].title == "Training step at tiny"
    assert steps.tables[-1].rows[0][0] == "tiny"
    assert min(steps.bars["tiny"][name].low for name in ("mnet_jax", "plain NNX")) > 0
    assert steps.raw["tiny"]["mnet_jax"]["again"] > 0
    infer = inference.measure(QUICK, REGIMES)
    assert {"mnet_jax", "plain NNX"} <= infer.bars["tiny"].keys()
    kernels = ops.measure(QUICK, batch=2, of=[ops.Shape(4, 3, 1), ops.Shape(5, 3, 2)])
    assert [len(table.rows) for table in kernels.tables] == [2, 2, 2]
    assert all(float(row[1]) > 0 for table in kernels.tables for row in table.rows)
    several = seeds.measure(QUICK, REGIMES, runs=(1, 2))
    assert all(float(row[4]) > 0 for row in several.tables[0].rows)
    assert float(several.tables[0].rows[1][2]) > 0
    assert len(several.raw["tiny"]["2 at once"]["seconds"]) == seeds.ROUNDS


@pytest.mark.slow
def test_the_first_command_in_seconds(tmp_path):
    short = ("--config", str(write(tmp_path)), "--config.seeds=1", "--config.train.epochs=1")
    (table,) = command.measure(QUICK, short).tables
    first, second = (dict(zip(table.header, row, strict=True)) for row in table.rows)
    assert first["exit"] == second["exit"] == "0.0"
    assert float(second["compile"]) < float(first["compile"])


def test_the_door_writes_tables_rounds_and_a_picture(tmp_path, monkeypatch, capsys):
    times = {"ours": Times(seconds=[1.0]), "other": Times(seconds=[2.0])}

    def measured(settings, regimes):
        table, bars = contest.compare("Step", times, 1)
        return contest.Result([table], {name: contest.raw(times) for name in regimes}, {"tiny": bars})

    monkeypatch.setattr(door, "PARTS", {"step": door.Part(measured, REGIMES | {"other": REGIMES["tiny"]})})
    door.main(["--part", "step", "--regime", "ti", "--out", str(tmp_path)])
    assert capsys.readouterr().out == (tmp_path / "step-ti.md").read_text()
    written = json.loads((tmp_path / "step-ti.json").read_text())
    assert written["times"]["tiny"]["other"] == asdict(times["other"])
    assert list(written["times"]) == ["tiny"]
    assert "jax" in written["versions"]
    assert "<svg" in (tmp_path / "step-ti.svg").read_text()
    with pytest.raises(ValueError, match="--regime 7; of step there are: tiny; other"):
        door.main(["--part", "step", "--regime", "7"])


def test_the_door_times_a_network(capsys):
    with pytest.raises(ValueError, match="did you mean 'mobilenet_v2'"):
        door.main(["mobilenet_v22"])
    door.main(["s8", "--resolution", "16", "--batch", "2", "--rounds", "1"])
    out = capsys.readouterr().out
    assert "s8 on 16 x 16: 620,160 MAdds" in out
    assert [line.split(" | ")[0] for line in out.splitlines()[4:6]] == ["| batch 1", "| batch 2"]


def test_the_picture_has_a_mark_for_everyone():
    bars = {"ours": contest.Spread(1.0, 0.5, 2.0), "other": contest.Spread(10.0, 9.0, 30.0)}
    figure = figures.benchmark({"a": bars, "b": bars}, "ms")
    for axes in figure.axes:
        assert [float(marks[0].get_xdata()[0]) for marks in axes.containers] == [1.0, 10.0]
        assert [text.get_text() for text in axes.texts] == ["1", "10"]
