"""Benchmarks at toy size: what is counted and divided, and contenders that fail."""

import functools
import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tiny import OVERRIDES, write

from mnet_jax import cost, figures, flags, results, sweep
from mnet_jax import experiment as experiments
from mnet_jax.bench import __main__ as door
from mnet_jax.bench import depthwise, harness, inference, profile, quickstart, roofline, seeds, step
from mnet_jax.bench.contenders import nnx
from mnet_jax.bench.depthwise import PASSES, Shape
from mnet_jax.bench.harness import Contender, InProcess, Result, Settings, Times
from mnet_jax.bench.regime import Regime
from mnet_jax.cost import __main__ as cost_door
from mnet_jax.errors import UserError
from mnet_jax.table import Table

QUICK = Settings(rounds=2, turn_seconds=0.001)
TINY = {key.removeprefix("model."): value for key, value in OVERRIDES.items() if key.startswith("model.")}
REGIMES = {"tiny": Regime(TINY | {"num_classes": 3}, 8, 4)}


def test_ratios_are_those_of_the_same_round():
    ours, other = Times(seconds=[1.0, 2.0, 4.0]), Times(seconds=[2.0, 16.0, 4.0])
    assert harness.ratio(other, ours) == (2.0, 1.0, 8.0)
    assert ours.median == 2.0


def test_a_table_names_who_failed_and_compares_the_others():
    times = {
        "ours": Times(first_call=3.0, second_start=1.0, seconds=[0.5, 0.25]),
        "slow": Times(first_call=2.0, seconds=[1.0, 1.0]),
        "absent": Times(failed="not installed: torch"),
    }
    table, bars = harness.compare("a step", times, images=8)
    assert all(len(row) == len(table.header) for row in table.rows)
    ours, slow, absent = table.rows
    assert ours[:4] == ("ours", "375", "250 - 500", "21")
    assert ours[-2:] == ("3.0", "1.0")
    assert slow[4:6] == ("3.00", "2.00 - 4.00")
    assert absent[1] == "not installed: torch"
    assert bars == {"ours": (375.0, 250.0, 500.0), "slow": (1000.0, 1000.0, 1000.0)}
    assert table.section().splitlines()[2].startswith("|  | ms | min - max |")


def test_without_our_own_time_there_is_no_ratio():
    times = {"ours": Times(failed="crashed"), "other": Times(seconds=[1.0])}
    assert harness.compare("a step", times, 1)[0].rows[1][4:6] == ("", "")


FAKE = """#!{python}
import json, os, sys, time
work = json.loads(sys.stdin.readline())["workload"]
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
    contenders = {work: Contender(work, {}, "train", peer=True) for work in works}
    settings = QUICK._replace(peers_python=str(interpreter), start_limit=5.0)
    times = harness.run_rounds(contenders, settings, "test", restart=["works"])
    assert [times[work].failed for work in works] == [
        "exit status 1: out of luck",
        "killed by signal 9",
        "no answer within 5 s",
        "not installed: torch",
        "",
    ]
    assert [times[work].seconds for work in works] == [[], [], [], [], [2.0, 2.0]]
    assert times["works"].second_start is not None
    assert "test: round 2 of 2" in capsys.readouterr().err


def test_the_floor_is_the_one_worked_out_by_hand():
    """224, batch 8 at 390 GFLOP/s and 42 GiB/s: 34.5 ms of products, and 12 passes of 4.7 ms."""
    regime = step.REGIMES["224, batch 8"]
    counted = cost.count(regime.config().model, regime.resolution, bytes_per_element=4)
    machine = roofline.machine(2.0**36 / 195e9, 0.5 / 42, roofline.sizes("float32", cpu=True))
    assert machine == pytest.approx((195e9, 42 * 2**30))
    twelve, six = (1e3 * roofline.floor(counted, 8, passes, machine) for passes in (12, 6))
    assert twelve == pytest.approx(91, abs=1)
    assert twelve - six == pytest.approx(6 * 4.73, abs=0.1)


@pytest.mark.parametrize(
    "regime", [*step.REGIMES.values(), *step.ONE_CORE.values(), step.GPU["224, float32, batch 256"]]
)
def test_peers_have_the_same_network(regime):
    ours = cost.count(regime.config().model, regime.resolution)
    theirs = cost.count(nnx.build(regime), input_shape=(regime.resolution,) * 2 + (ours.layers[0].input_shape[2],))
    assert (theirs.madds, theirs.params_trainable) == (ours.madds, ours.params_trainable)


def test_depthwise_shapes_are_those_of_the_paper():
    rows = [(112, 32, 1), (112, 96, 2), (56, 144, 1), (56, 144, 2), (28, 192, 1), (28, 192, 2)]
    rows += [(14, 384, 1), (14, 576, 1), (14, 576, 2), (7, 960, 1)]
    assert depthwise.shapes(["mobilenet_v2"]) == rows


def test_one_core(capsys):
    """Whole processes: ours takes a step, PyTorch is not there, or takes one too."""
    (result,) = door.CPU["small"].measure(QUICK, REGIMES)
    (ours, torch, kept), times = result.tables[0].rows, result.times
    assert len(times[step.OURS].seconds) == 2
    assert min(times[step.OURS].seconds) > 0
    assert (ours[0], torch[0], kept[0]) == ("mnet_jax", "torch", "torch, allocator set")
    assert torch[1] == "not installed: torch" or float(torch[1]) > 0
    assert "first call after" in capsys.readouterr().err


def test_latencies_of_an_experiments_arms(tmp_path, capsys):
    """Into the workdir, whose report then has them; that of another experiment is refused."""
    path = write(tmp_path)
    experiment = experiments.load(path)
    plan = sweep.plan(experiment, "digits", {}, "train", "")
    printed = {"linear": {"latency_ms": 75}, "relu6": {"latency_ms": 150}}
    table = inference.latencies(
        replace(plan, claim=replace(plan.claim, printed=printed)), experiment.code, QUICK
    ).tables[0]
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
        door.main(["--config", str(harness.ROOT / "experiments" / "manifold_spiral.py")])
    with pytest.raises(ValueError, match="is of --config FILE"):
        door.main(["--workdir", str(tmp_path)])


@pytest.mark.slow
def test_time_by_type_of_layer():
    _, result = inference.network("mobilenet_v1", QUICK, 32, 1, {"width": 0.25})
    (table,) = result.tables
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

    contenders = {name: InProcess(functools.partial(run, name)) for name in ("works", "breaks")}
    times = harness.run_rounds(contenders, QUICK, "test")
    assert turns == ["works"] * 2 + ["breaks"] * 2 + ["works", "breaks", "works"]
    assert times["breaks"].failed == "MemoryError: out of memory"
    assert (times["breaks"].seconds, len(times["works"].seconds)) == ([], 2)


@pytest.fixture
def small_probes(monkeypatch):
    monkeypatch.setattr(roofline, "GEMM_SIZE", 8)
    monkeypatch.setattr(roofline, "COPY_BYTES", 1 << 12)


def test_depthwise_against_its_bytes(small_probes):
    """16 pixels and 4 of 8 x 2 numbers; the fastest of a class is the formulation of the smallest geometric mean."""
    shape, other = Shape(4, 2, 2), Shape(2, 2, 2)
    regime = depthwise.Regime((), "float32", batch=8)
    assert depthwise._bytes(shape, regime) == 8 * 2 * (16 + 4) * 4
    assert depthwise._bytes(shape, regime._replace(dtype="bfloat16")) == 8 * 2 * (16 + 4) * 2
    seconds = {"lax": (1.0, 9.0), "shift": (2.0, 2.0), "pallas": (1.0, 1.0), "torch": (0.5, 0.5)}
    times = {
        layer: {f"{which}, {way}": Times(seconds=[took[number]]) for way, took in seconds.items() for which in PASSES}
        for number, layer in enumerate((shape, other))
    }
    times[other]["forward, pallas"] = Times(failed="refused")
    rows = depthwise._class_table("", ["lax", "shift", "pallas"], times, {shape: 1.0, other: 0.5}).rows
    small = {row[1]: row[2:] for row in rows if row[0] == "small, stride 2"}
    assert small["forward"] == ("4.24", "2.83", "", "0.71", "shift")
    assert small["gradient to input"] == ("4.24", "2.83", "1.41", "0.71", "pallas")
    assert small["all three"] == ("4.24", "2.83", "", "0.71", "shift")
    assert {row[-1] for row in rows if row[0] != "small, stride 2"} == {""}


def test_depthwise_layers_come_one_by_one(small_probes):
    """A result for each shape as soon as its rounds are over; PyTorch has a column, and a time or a reason."""
    regimes = {"tiny": depthwise.Regime((), "float32", 2, working_set=1000)}
    layer, regime = depthwise.measure(QUICK, regimes, [Shape(5, 3, 2)])
    assert (layer.case, layer.tables) == ("tiny: 5x5x3, stride 2", [])
    assert len(layer.times["gradient to kernel, lax"].seconds) == QUICK.rounds
    forward = dict(zip(regime.tables[0].header, regime.tables[0].rows[0], strict=True))
    assert {"lax (us)", "shift (us)", "torch (us)"} <= forward.keys()
    assert forward["fastest"] in depthwise.formulations("float32")
    assert forward["torch (us)"] == "not installed: torch" or float(forward["torch (us)"].split()[0]) > 0


def test_layers_of_both_networks_from_large_to_small():
    found = depthwise.shapes(depthwise.NETWORKS)
    assert set(found) > set(depthwise.shapes(["mobilenet_v2"]))
    assert (found[0], found[-1]) == (Shape(112, 32, 1), Shape(7, 1024, 1))
    assert len(found) == len(set(found)) == 18


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
    (several,) = door.GPU["seeds"].measure(QUICK, REGIMES)
    assert [row[0] for row in several.tables[0].rows] == ["1", "4", "16", "64"]
    assert all(float(row[4]) > 0 for row in several.tables[0].rows)
    (profiled,) = profile.measure(QUICK, REGIMES)
    table, by_operation, by_instruction = profiled.tables
    assert float(table.rows[0][0]) > 0
    assert any("dot_general" in row[0] for row in by_operation.rows)
    assert len(by_instruction.rows[0]) == len(by_instruction.header)
    for part in ("step", "inference"):
        (result,) = door.GPU[part].measure(QUICK, REGIMES)
        assert {"mnet_jax", "mnet_jax, shift"} <= result.bars.keys()
        assert result.times["mnet_jax, pallas"].failed.startswith("ValueError: formulation='pallas' cannot")
        assert all(entry.seconds or entry.failed for entry in result.times.values())


@pytest.mark.slow
def test_every_part():
    (steps,) = door.CPU["step"].measure(QUICK, REGIMES)
    assert [table.title for table in steps.tables] == [
        "Training step at tiny",
        "Limits of the machine, measured in the same rounds",
    ]
    assert min(steps.bars[name].low for name in ("mnet_jax", "plain NNX")) > 0
    assert steps.bars.keys().isdisjoint(roofline.PROBES)
    assert steps.times["mnet_jax"].second_start > 0
    (infer,) = door.CPU["inference"].measure(QUICK, REGIMES)
    assert {"mnet_jax", "plain NNX", "mnet_jax, weights as arguments"} <= infer.bars.keys()
    (several,) = seeds.measure(QUICK, REGIMES, runs=(1, 2))
    assert all(float(row[4]) > 0 for row in several.tables[0].rows)
    assert float(several.tables[0].rows[1][2]) > 0
    assert len(several.times["2 at once"].seconds) == seeds.ROUNDS


@pytest.mark.slow
def test_the_first_command_in_seconds(tmp_path):
    short = ("--config", str(write(tmp_path)), "--config.seeds=1", "--config.train.epochs=1")
    first, second = (result.times for result in quickstart.measure(QUICK, short))
    assert first["exit"] == second["exit"] == 0
    assert second["compile"] < first["compile"]


def parts(monkeypatch, stops=False):
    """One part with two regimes; `stops` after the first."""
    times = {"ours": Times(seconds=[1.0]), "other": Times(seconds=[2.0])}

    def measure(settings, regimes):
        for number, name in enumerate(regimes):
            if number and stops:
                raise KeyboardInterrupt
            table, bars = harness.compare(f"Step at {name}", times, 1)
            yield Result(name, [table], times, bars)

    monkeypatch.setattr(door, "PARTS", {"step": door.Part(measure, REGIMES | {"other": REGIMES["tiny"]})})
    return times


def test_the_door_writes_tables_rounds_and_a_picture(tmp_path, monkeypatch, capsys):
    times = parts(monkeypatch)
    door.main(["--part", "step", "--regime", "ti", "--out", str(tmp_path)])
    assert capsys.readouterr().out == (tmp_path / "step-ti.md").read_text()
    facts, case = map(json.loads, (tmp_path / "step-ti.jsonl").read_text().splitlines())
    assert case == {"case": "tiny", "times": {name: asdict(entry) for name, entry in times.items()}}
    assert "jax" in facts["versions"]
    assert "<svg" in (tmp_path / "step-ti.svg").read_text()


def test_what_is_measured_is_written_before_the_rest_starts(tmp_path, monkeypatch):
    parts(monkeypatch, stops=True)
    (tmp_path / "step.md").write_text("of an earlier run")
    with pytest.raises(KeyboardInterrupt):
        door.main(["--part", "step", "--out", str(tmp_path)])
    assert (tmp_path / "step.md").read_text().splitlines()[0] == "**Step at tiny**"
    assert len((tmp_path / "step.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "step.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds 0; allowed: 1 to 1,000"),
        (["s8", "--batch", "-1"], "--batch -1; allowed: 1 to 1,048,576"),
        (["s8", "--resolution", "0"], "--resolution 0; allowed: 1 to 16,384"),
        (["s8", "--resolution", "100000000000000000000"], "allowed: 1 to 16,384"),
        (["s8", "--width", "nan"], "--width nan; allowed: at least 0"),
        (["--regime", "7"], "--regime 7; the regimes of step are: tiny; other"),
        (["--out", "FILE/folder"], "FILE/folder: Not a directory; allowed: a folder that can be written"),
        (["--out", "FILE"], "FILE: File exists; allowed: a folder that can be written"),
        (["--data", "--rounds", "0"], "--rounds 0; allowed: at least 1"),
        (["--data", "--batches", "0"], "--batches 0; allowed: at least 1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(arguments, message, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()

    def never(*_):
        raise AssertionError("something ran")

    monkeypatch.setattr(door, "PARTS", {"step": door.Part(never, REGIMES | {"other": REGIMES["tiny"]})})
    monkeypatch.setattr(inference, "network", never)
    with pytest.raises(UserError, match=re.escape(message.replace("FILE", str(file)))):
        door.main([word.replace("FILE", str(file)) for word in arguments])


def test_a_folder_that_takes_no_file_is_refused():
    with pytest.raises(UserError, match=r"--out /proc: .*; allowed: a folder that can be written"):
        flags.check_folder("--out", Path("/proc"))


def test_a_file_for_output(tmp_path):
    flags.check_file("--picture", tmp_path / "a.svg", (".png", ".svg"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"No such file or directory; allowed: a file in a folder that can be written"):
        flags.check_file("--picture", tmp_path / "missing" / "a.svg", (".png", ".svg"))
    with pytest.raises(UserError, match=r"is a folder; allowed: a file, \.png or \.svg"):
        flags.check_file("--picture", tmp_path, (".png", ".svg"))
    with pytest.raises(UserError, match=r"a\.doc; allowed: a file, \.png or \.svg"):
        flags.check_file("--picture", tmp_path / "a.doc", (".png", ".svg"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["s8", "--picture", "FOLDER"], "FOLDER is a folder"),
        (["--paper", "--picture", "FOLDER/a.png"], "shows networks, and none is named"),
        (["s8", "--resolution", "100000000"], "--resolution 100000000; allowed: 1 to 16,384"),
        (["s8", "--bytes", "0"], "--bytes 0; allowed: at least 1"),
    ],
)
def test_cost_refuses_what_cannot_work_before_it_prints(arguments, message, tmp_path, capsys):
    with pytest.raises(UserError, match=re.escape(message.replace("FOLDER", str(tmp_path)))):
        cost_door.main([word.replace("FOLDER", str(tmp_path)) for word in arguments])
    assert capsys.readouterr().out == ""


def test_a_table_in_markdown():
    """Words to the left, numbers to the right, rows that stand out in bold, nothing that ends a cell or starts HTML."""
    table = Table("A", ("a|b", "n"), [("<i>", "1"), ("x", "")], note="Why.", marked=(0, 1))
    assert table.section().splitlines() == [
        "**A**",
        "",
        "| a\\|b | n |",
        "| --- | ---: |",
        "| **&lt;i>** | **1** |",
        "| **x** |  |",
        "",
        "Why.",
    ]
    assert table._replace(left=2).markdown().splitlines()[1] == "| --- | --- |"


def test_the_door_times_a_network(capsys):
    with pytest.raises(ValueError, match="did you mean 'mobilenet_v2'"):
        door.main(["mobilenet_v22"])
    door.main(["s8", "--resolution", "16", "--batch", "2", "--rounds", "1"])
    out = capsys.readouterr().out
    assert "s8 on 16 x 16: 620,160 MAdds" in out
    assert [line.split(" | ")[0] for line in out.splitlines()[4:6]] == ["| batch 1", "| batch 2"]


def test_the_picture_has_a_mark_for_everyone():
    bars = {"ours": harness.Spread(1.0, 0.5, 2.0), "other": harness.Spread(10.0, 9.0, 30.0)}
    figure = figures.benchmark({"a": bars, "b": bars}, "ms")
    for axes in figure.axes:
        assert [float(marks[0].get_xdata()[0]) for marks in axes.containers] == [1.0, 10.0]
        assert [text.get_text() for text in axes.texts] == ["1", "10"]
