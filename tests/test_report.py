"""The report of synthetic workdirs: rows made here, of no training, so that every number is known."""

import csv
import json
import math
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from scipy import stats as scipy_stats

from mnet_jax import config, figures, formatting, laboratory, locks, report, results, stats
from mnet_jax.config import claims
from mnet_jax.figures import ablation, style
from mnet_jax.report import drawing, index, kept, sentences, tables
from mnet_jax.results import Arm, Job, Run, Sweep
from mnet_jax.tasks.base import Metric

COST = {"madds": 1_234_567.0, "params": 43_012.0, "images": 18_000.0}
CONFIG = {
    "task": "classification",
    "seeds": 12,
    "model.name": "d17",
    "train.epochs": 30,
    "optim.lr": 0.6,
    "data.flip": False,
}
CLAIM = {
    "text": "A linear bottleneck is more accurate than one with ReLU6.",
    "source": "Sandler et al. 2018, Figure 6a",
    "published": "71.05 against 70.43 % ImageNet top-1",
    "metric": "accuracy",
    "contrasts": [{"kind": "greater", "arms": ["linear", "relu6"], "published": 0.62}],
}
ACCURACY = Metric("accuracy", "accuracy", "%", 2, diverged=0.1)
NLL = Metric("nll", "NLL", "", 3, higher_is_better=False, diverged=math.log(10))
METRICS = (
    ACCURACY,
    NLL,
    Metric("train_loss", "training loss", "", 3, higher_is_better=False, diverged=math.log(10), group="training"),
    Metric("train_accuracy", "training accuracy", "%", 2, diverged=0.1, group="training"),
    Metric("dead_depthwise", "dead depthwise", "%", 2, group="inside"),
)
DRAWN = {"drawn_by_seed": "training and test images", "train_images": 600, "test_images": 897}
TOP = {"linear": 0.978, "relu6": 0.969, "relu": 0.971, "none": 0.94, "relu6@lr0.6": 0.967}


def make_sweep(*arms, seeds=range(12), **changes):
    """A plan with one job a run; the first arm is the baseline."""
    runs = [Run(f"{arm.name}-s{seed}", arm.name, seed) for seed in seeds for arm in arms]
    claim = claims.parse(changes.pop("claim", CLAIM), "the test")
    made = Sweep(
        experiment="v2_linear_bottleneck",
        scale="digits",
        mode="train",
        title="Linear against rectified bottlenecks (synthetic rows)",
        command="python -m mnet_jax.main --config experiments/v2_linear_bottleneck.py",
        config=CONFIG,
        claim=claim,
        metrics=METRICS,
        arms=arms,
        jobs=tuple(Job(f"{index:03d}", "1a2b3c4d", (run,)) for index, run in enumerate(runs)),
    )
    return replace(made, **changes)


def arm(name, lr=0.6, same_lr_as="", cost=COST, **more):
    overrides = {"model.project_act": (same_lr_as or name).split("@")[0], "optim.lr": lr}
    return Arm(name, overrides, lr, same_lr_as, cost=cost, **more)


def make_row(sweep, run, metrics, **changes):
    of = sweep.arm(run.arm)
    row = {
        "experiment": sweep.experiment,
        "scale": sweep.scale,
        "run": run.name,
        "arm": run.arm,
        "seed": run.seed,
        "lr": of.lr,
        "overrides": of.overrides,
        "program": "1a2b3c4d",
        "data": {
            "source": "digits",
            "fingerprint": "0123456789ab",
            "split": "600 training images, 897 held out",
            **DRAWN,
        },
        "versions": {"mnet_jax": "0.1.0", "jax": "0.10.2", "python": "3.11.7", "commit": "abc1234"},
        "device": {"platform": "cpu", "kind": "cpu", "count": 1, "threads": 1},
        "cost": {name: value for name, value in of.cost.items() if name != "images"},
        "metrics": metrics,
        "diverged_at": None,
        "timing": {"start": 0.5, "compile": 2.0, "steps": 5.0, "evaluation": 0.3, "writing": 0.2},
    }
    return row | changes


def make_metrics(run):
    rng = np.random.default_rng([run.seed, *run.arm.encode()])
    accuracy = round(rng.normal(TOP.get(run.arm, 0.97), 0.005) * 897) / 897
    return {"accuracy": accuracy, "nll": 4 * (1 - accuracy), "train_loss": 0.01, "train_accuracy": 1.0}


def make_curve(metrics):
    for epoch in range(1, 31):
        line = {
            "epoch": epoch,
            "step": 10 * epoch,
            "lr": 0.5,
            "train_loss": 2.3 * 0.85**epoch,
            "train_accuracy": 0.9,
        }
        if epoch % 6 == 0:
            line |= {"accuracy": metrics["accuracy"] - 0.5 * 0.85**epoch, "nll": 0.3}
        yield line


def write_workdir(workdir, sweep, done=None, change=lambda row: row, metrics=make_metrics):
    """Writes a plan and the first `done` rows of it; returns the rows."""
    results.write_sweep(workdir, sweep)
    rows = []
    for run in sweep.runs[:done]:
        row = change(make_row(sweep, run, metrics(run)))
        results.write_row(workdir, row)
        if "accuracy" in row["metrics"]:
            lines = "".join(json.dumps(line) + "\n" for line in make_curve(row["metrics"]))
            results.write_atomic(results.run_dir(workdir, run.name) / "metrics.jsonl", lines)
        rows.append(row)
    return rows


def values(rows, arm, metric="accuracy", factor=100):
    return {row["seed"]: factor * row["metrics"][metric] for row in rows if row["arm"] == arm}


def paired(rows, a, b, metric="accuracy", factor=100):
    x, y = values(rows, a, metric, factor), values(rows, b, metric, factor)
    return np.array([x[seed] - y[seed] for seed in sorted(x.keys() & y.keys())])


def t_interval(array):
    low, high = scipy_stats.ttest_1samp(array, 0).confidence_interval(0.95)
    return np.mean(array), low, high


def rendered(workdir):
    """The summary, and its text, Markdown and page (without pictures, which take their time)."""
    summary = report.summarize(workdir)
    return summary, report.to_text(summary), report.to_markdown(summary), report.to_html(summary, ())


def words(page):
    """A page's words, whatever the lines they stand on and the frame around them."""
    return " ".join(page.replace("│", " ").split())


THREE = (arm("linear"), arm("relu6"), arm("relu"))


def test_all_renderers_say_the_same_numbers(tmp_path):
    """Recomputed here from the rows, with scipy."""
    rows = write_workdir(tmp_path, make_sweep(*THREE))
    summary, *pages = rendered(tmp_path)
    mean, low, high = t_interval(np.array(list(values(rows, "relu6").values())))
    of_arm = f"{mean:.2f} [{low:.2f}, {high:.2f}]"
    mean, low, high = t_interval(paired(rows, "relu6", "linear"))
    secondary = f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
    sentence = f"linear exceeds relu6 by {-mean:.2f} points [{-high:.2f}, {-low:.2f}]"
    mean, low, high = t_interval(paired(rows, "relu6", "linear", "nll", 1))
    nll = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    for page in pages:
        for expected in (
            of_arm,
            secondary,
            sentence,
            nll,
            "1.23 M",
            "43.0 k",
            "+0.62 points",
            "0123456789ab",
        ):
            assert expected in words(page)
        assert "PARTIAL" not in page
        assert "WARNING" not in page
    assert (summary.done, summary.total) == (36, 36)
    assert summary.metrics == (ACCURACY, NLL)
    assert summary.timing["compile"] == pytest.approx(72)
    assert [comparison.role for comparison in summary.comparisons] == ["primary", "secondary"]


def test_the_verdict_is_first_on_the_page_and_last_in_the_terminal(tmp_path):
    write_workdir(tmp_path, make_sweep(*THREE))
    summary, text, markdown, html = rendered(tmp_path)
    head = summary.verdicts[0].outcome
    assert text.index(head.upper()) > text.index("Differences from linear") > text.index("43.0 k")
    for page in (markdown, html):
        assert 0 < page.lower().index(head) < page.index("43.0 k")


def test_the_terminal_needs_100_columns_and_no_color(tmp_path):
    long = "a_rather_long_name_of_an_arm"
    write_workdir(tmp_path, make_sweep(*THREE, arm(long, 0.3), arm(f"{long}@lr0.6", 0.6, long)))
    text = report.to_text(report.summarize(tmp_path))
    assert max(map(len, text.split("\n"))) <= 100
    assert "\x1b" not in text
    assert "\x1b" in report.to_text(report.summarize(tmp_path), color=True)


def test_the_files_are_what_is_rendered_the_same_each_time(tmp_path):
    write_workdir(tmp_path, make_sweep(*THREE))
    summary, _ = report.write(tmp_path)
    pages = [(tmp_path / name).read_text() for name in ("report.md", "report.html")]
    assert pages == [report.to_markdown(summary), report.to_html(summary, report.draw(tmp_path, summary))]


def test_the_last_of_two_reports_has_every_row(tmp_path):
    """One process still reports when another ends the last run: that one's report comes after, and stays."""
    rows = write_workdir(tmp_path, make_sweep(*THREE), done=8)
    with ThreadPoolExecutor(1) as other:
        with locks.report_lock(tmp_path):
            last = other.submit(report.write, tmp_path)
            with pytest.raises(TimeoutError):
                last.result(timeout=2)
            assert len(write_workdir(tmp_path, make_sweep(*THREE))) > len(rows)
        summary, _ = last.result()
    assert summary.done == summary.total


def test_half_way_everything_renders_and_says_so(tmp_path):
    write_workdir(tmp_path, make_sweep(*THREE), done=17)
    summary, *pages = rendered(tmp_path)
    for page in pages:
        assert "PARTIAL: 17 of 36 runs; numbers will change" in page
        assert "5 of 12" in page
    assert [arm.done for arm in summary.arms] == [6, 6, 5]


@pytest.mark.parametrize("mode", ["train", "tune"])
def test_before_the_first_run_ends(tmp_path, mode):
    write_workdir(tmp_path, make_sweep(*THREE[:2], mode=mode), done=0)
    summary, *pages = rendered(tmp_path)
    assert all("PARTIAL: 0 of 24 runs" in page for page in pages)
    assert [verdict.outcome for verdict in summary.verdicts] == ["not enough runs yet"] * (mode == "train")


def test_one_seed(tmp_path):
    write_workdir(tmp_path, make_sweep(*THREE, seeds=[0]))
    summary, *pages = rendered(tmp_path)
    assert summary.verdicts[0].outcome == "not enough runs yet"
    assert all("Not enough runs yet" in page or "NOT ENOUGH RUNS YET" in page for page in pages)
    assert all("nan" not in re.sub(r"[A-Za-z]nan|nan[A-Za-z]", "", page) for page in pages[:2])


def test_a_diverged_run_counts_at_chance_and_is_named(tmp_path):
    def diverge(row):
        if row["run"] == "relu6-s3":
            nan = {"accuracy": math.nan, "nll": math.nan}
            return row | {"diverged_at": 120, "metrics": row["metrics"] | nan}
        return row

    rows = write_workdir(tmp_path, make_sweep(*THREE), change=diverge)
    summary, *pages = rendered(tmp_path)
    of_arm = values(rows, "relu6") | {3: 10.0}
    nll = values(rows, "relu6", "nll", 1) | {3: math.log(10)}
    assert summary.arms[1].estimate(ACCURACY).mean == pytest.approx(np.mean(list(of_arm.values())))
    assert summary.arms[1].estimate(NLL).mean == pytest.approx(np.mean(list(nll.values())))
    assert summary.arms[1].estimate(ACCURACY).n == 12
    for page in pages:
        assert "relu6-s3 diverged at step 120 and counts as 10.00 %, the level of guessing" in page
        assert "1 diverged" in page


def test_curves_are_at_chance_from_where_a_run_diverged(tmp_path):
    rows = write_workdir(tmp_path, make_sweep(arm("linear"), seeds=range(2)))
    rows[1]["diverged_at"] = 120
    logged = {row["run"]: results.read_metrics(tmp_path, row["run"]) for row in rows}
    epochs_T, accuracy_ST = drawing._curve(rows, logged, ACCURACY)
    assert list(epochs_T) == [6, 12, 18, 24, 30]
    assert accuracy_ST[1, 1:].tolist() == [0.1] * 4
    assert accuracy_ST[1, 0] != 0.1
    assert 0.1 not in accuracy_ST[0]


def diverged_at_once(row):
    bad = {"accuracy": math.nan, "nll": math.nan, "train_loss": math.nan, "train_accuracy": 0.1}
    return row | {"diverged_at": 3, "metrics": bad} if row["arm"] == "relu6" else row


@pytest.mark.parametrize(
    ("seeds", "done", "change"), [([0], None, dict), (range(12), 1, dict), (range(3), 8, diverged_at_once)]
)
def test_pictures_of_little_or_odd_data(tmp_path, seeds, done, change):
    """One seed, one run, an arm all of whose runs diverged: no warning, which would fail here, and no gap."""
    write_workdir(tmp_path, make_sweep(*THREE, seeds=seeds), done=done, change=change)
    titles = [picture.title for picture in report.draw(tmp_path, report.summarize(tmp_path))]
    expected = ["Learning curves", "What it costs", "Every run"]
    assert titles == (expected if done == 1 else ["Differences from linear", *expected])


@pytest.mark.parametrize(
    ("data", "scope", "wider"),
    [
        (DRAWN, "over re-splits and initialisations of the same 1,497 images of digits", True),
        (
            DRAWN | {"drawn_by_seed": "training images"},
            "over draws of the training images and initialisations; all seeds are tested on the same 897 images",
            False,
        ),
        (DRAWN | {"drawn_by_seed": "nothing"}, "over initialisations; all seeds are tested on the same 897", False),
    ],
)
def test_a_report_says_what_its_intervals_are_over(tmp_path, data, scope, wider):
    """Where seeds split the same images anew, the interval for new images stands beside (Nadeau and Bengio 2003)."""
    rows = write_workdir(tmp_path, make_sweep(*THREE), change=lambda row: row | {"data": row["data"] | data})
    _, *pages = rendered(tmp_path)
    d = paired(rows, "linear", "relu6")
    half = scipy_stats.t.ppf(0.975, 11) * d.std(ddof=1) * math.sqrt(1 / 12 + 897 / 600)
    shown = f"{d.mean():+.2f} points [{d.mean() - half:+.2f}, {d.mean() + half:+.2f}]"
    for page in pages:
        assert scope in words(page)
        assert (shown in words(page)) == ("for new images (Nadeau and Bengio 2003)" in words(page)) == wider


# What must not be compared.


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (
            {"data": {"source": "digits", "fingerprint": "ffff", "split": "x"}},
            "other data .*'0123456789ab' and 'ffff'",
        ),
        ({"program": "99999999"}, "other settings .*program: '1a2b3c4d' and '99999999'"),
        ({"lr": 0.1}, "other settings .*lr: 0.6 and 0.1"),
        ({"overrides": {}}, "other settings .*overrides"),
    ],
)
def test_rows_of_other_data_or_settings_are_refused(tmp_path, change, shown):
    other = lambda row: row | change if row["run"] == "relu6-s1" else row  # noqa: E731
    write_workdir(tmp_path, make_sweep(*THREE), change=other)
    with pytest.raises(ValueError, match=f"relu6-s1 have {shown}"):
        report.write(tmp_path)
    assert not (tmp_path / "report.md").exists()


@pytest.mark.parametrize(("other", "refused"), [({}, ""), ({"test_images": 896}, "test_images: 897 and 896")])
def test_arms_may_train_on_other_images_but_not_be_tested_on_others(tmp_path, other, refused):
    small = replace(arm("small"), overrides={"data.train_size": 100})
    data = {"split": "100 training images", "train_images": 100, **other}
    change = lambda row: row | {"data": row["data"] | data} if row["arm"] == "small" else row  # noqa: E731
    rows = write_workdir(tmp_path, make_sweep(*THREE, small), change=change)
    assert rows[0]["data"]["train_images"] == 600
    if not refused:
        assert report.summarize(tmp_path).data["train_images"] == 600
        return
    with pytest.raises(ValueError, match=f"linear-s0 and small-s0 have other data .*{refused}"):
        report.summarize(tmp_path)


def test_a_row_without_the_metric_is_refused(tmp_path):
    write_workdir(tmp_path, make_sweep(*THREE), metrics=lambda run: {"nll": 0.1})
    with pytest.raises(ValueError, match="linear-s0 has no accuracy"):
        report.summarize(tmp_path)


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (
            {"versions": {"jax": "0.10.2", "commit": "def5678"}},
            "differ in commit: abc1234 (18 runs), def5678 (18 runs)",
        ),
        (
            {"device": {"platform": "gpu", "kind": "H200", "count": 1, "threads": 1}},
            "differ in device kind: cpu (18",
        ),
    ],
)
def test_other_code_or_devices_are_warned_of(tmp_path, change, warning):
    write_workdir(tmp_path, make_sweep(*THREE), change=lambda row: row | change if row["seed"] > 5 else row)
    _, *pages = rendered(tmp_path)
    assert all(warning in words(page) for page in pages)


# Learning rates.


def test_the_same_rate_stands_beside_the_tuned_one(tmp_path):
    """The verdict is of relu6 at its own 0.3; relu has the baseline's rate, so no twin."""
    arms = (arm("linear"), arm("relu6", 0.3), arm("relu"), arm("relu6@lr0.6", 0.6, "relu6"))
    claim = {**CLAIM, "contrasts": [*CLAIM["contrasts"], {"kind": "greater", "arms": ["linear", "relu"]}]}
    rows = write_workdir(tmp_path, make_sweep(*arms, claim=claim))
    summary, *pages = rendered(tmp_path)
    assert summary.verdicts[0].difference.mean == pytest.approx(paired(rows, "linear", "relu6").mean())
    assert summary.same_lr[0] is not None
    assert summary.same_lr[0].mean == pytest.approx(paired(rows, "linear", "relu6@lr0.6").mean())
    assert summary.same_lr[1] is None
    assert [comparison.role for comparison in summary.comparisons] == ["primary", "primary", "same lr"]
    beside = paired(rows, "linear", "relu6@lr0.6").mean()
    assert all("all at learning rate 0.6" in page and f"{beside:+.2f} points" in page for page in pages)
    assert sentences.provenance(summary)["arms"].count(";") == 2, "a twin's name says what it changes"


@pytest.mark.parametrize(
    ("contrast", "published"),
    [
        (["linear", "relu6"], {"relu6": -0.62}),
        (["relu6", "linear"], {"relu6": 0.62}),
        (["relu", "relu6"], {}),
    ],
)
def test_the_papers_value_is_turned_to_the_baseline(tmp_path, contrast, published):
    claim = {**CLAIM, "contrasts": [{"kind": "greater", "arms": contrast, "published": 0.62}]}
    write_workdir(tmp_path, make_sweep(*THREE, claim=claim))
    assert drawing._published(report.summarize(tmp_path)) == published


def tune_sweep(rates=(0.1, 0.3, 0.6)):
    arms = [arm(f"{variant}@lr{lr:g}", lr, variant=variant) for variant in ("linear", "relu6") for lr in rates]
    return make_sweep(*arms, seeds=range(10_000, 10_003), mode="tune")


def tune_metrics(run):
    """Parabolas in the logarithm of the rate, with their tops at 0.3 and beyond 0.6."""
    top = {"linear": 0.3, "relu6": 1.0}[run.arm.split("@")[0]]
    rate = float(run.arm.split("@lr")[1])
    wobble = 0.001 * math.sin(7 * run.seed + 40 * rate)
    return {"accuracy": 0.98 - 0.01 * math.log(rate / top) ** 2 + wobble, "nll": 0.1}


def test_tuning_fits_the_rates_says_how_sure_they_are_and_names_edges(tmp_path):
    write_workdir(tmp_path, tune_sweep(), metrics=tune_metrics)
    summary, *pages = rendered(tmp_path)
    choice = summary.tuned["linear"]
    assert "arms" not in sentences.provenance(summary)
    assert choice.rate == pytest.approx(0.3, abs=0.05)
    assert (summary.tuned["relu6"].rate, summary.tuned["relu6"].edge) == (0.6, "highest")
    for page in pages:
        shown = page.replace("&#34;", '"')
        assert (
            f'"linear": {choice.rate:g},  # give or take a factor of {choice.factor:.2f}, which costs {choice.cost:.2f}'
            in shown
        )
        assert '"relu6": (0.6, "edge"),  # the highest that was tried' in shown
        assert "relu6: the best learning rate, 0.6, is the highest" in words(page)
        assert "linear: the best" not in page
        assert "Verdict" not in page
    scope = {}
    exec(sentences.tuned_lines(summary), scope)
    assert scope["TUNED_LR"] == {"linear": choice.rate, "relu6": (0.6, "edge")}
    (tried, chosen) = tables.main_tables(summary)
    assert tried.rows[1][:2] == ("linear", "0.3")
    assert [row[0] for row in chosen.rows] == ["linear", "relu6"]
    assert chosen.rows[1][2:] == ("–", "–", "–", "–", "highest")


def test_half_a_tuning_names_no_rate(tmp_path):
    write_workdir(tmp_path, tune_sweep(), metrics=tune_metrics, done=17)
    summary, *pages = rendered(tmp_path)
    assert not summary.tuned
    assert all("PARTIAL: 17 of 18" in page and "TUNED_LR" not in page for page in pages)


def test_a_verdict_over_a_rate_at_the_edge_is_marked(tmp_path):
    write_workdir(tmp_path, make_sweep(arm("linear"), arm("relu6", lr_at_edge=True)))
    marked = "The learning rate of relu6 was at the edge of those that were tried."
    _, *pages = rendered(tmp_path)
    for page in pages:
        assert marked in words(page)
        assert "relu6: its learning rate, 0.6, was at the edge" in words(page)


# Other tasks, odd names, the page itself.


SPIRAL = ("collapsed", "all_zero", "readout_error", "pinv_error")


def test_a_task_that_trains_nothing(tmp_path):
    arms = [Arm(f"dim={dim}", {"spiral.dim": dim}, 0.045) for dim in (2, 3, 5)]
    names = [arm.name for arm in arms]
    trend = {"kind": "trend", "arms": names, "x": [2, 3, 5], "sign": -1, "published": None}
    claim = {"metric": "collapsed", "text": "Fewer collapse in more dimensions.", "contrasts": [trend]}
    settings = {**config.flatten(config.default()), "task": "spiral", "spiral.points": 500, "optim.lr": 0.045}
    metrics = tuple(Metric(name, name.replace("_", " "), higher_is_better=False) for name in SPIRAL)
    sweep = make_sweep(*arms, config=settings, claim=claim, metrics=metrics, seeds=range(5))

    def measured(run):
        dim = int(run.arm[4:])
        others = dict.fromkeys(("all_zero", "readout_error", "pinv_error"), 1 / dim)
        return {**others, "collapsed": (dim + 1) / 2**dim + 0.001 * run.seed / dim}

    write_workdir(tmp_path, sweep, metrics=measured, change=lambda row: row | {"data": {}})
    angle = np.linspace(0, 9, 50)[:, None]
    spiral = angle * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    for name in names:
        results.write_arrays(tmp_path, f"{name}-s0", {"input": spiral, "output": np.maximum(spiral, 0)})
    summary, text, *_ = rendered(tmp_path)
    assert summary.metrics == metrics
    assert summary.verdicts[0].outcome == "supported"
    assert summary.settings == ("the defaults", {"task": "spiral", "spiral.points": 500})
    mean, low, high = t_interval(np.array([0.75 + 0.0005 * seed for seed in range(5)]))
    assert f"{mean:.3f} [{low:.3f}, {high:.3f}]" in text, "numbers are not broken over lines, headers are"
    assert {"readout", "pinv", "zero"} <= set(text.split())
    assert "params" not in text
    assert "accuracy" not in text
    drawn = report.draw(tmp_path, summary)
    assert [picture.title for picture in drawn] == ["The spiral", "Differences from dim=2", "Every run"]
    assert drawn[0].svg.count("Output/dim=") == 3


def test_an_experiment_without_a_claim(tmp_path):
    write_workdir(tmp_path, make_sweep(*THREE, claim={}))
    summary, *pages = rendered(tmp_path)
    assert summary.verdicts == ()
    assert all("verdict" not in page.replace("is in the verdict", "").lower() for page in pages)


class Page(HTMLParser):
    """Tags and the attributes that load something."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.loads = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data")]


def test_the_page_needs_nothing_else(tmp_path):
    write_workdir(tmp_path, make_sweep(*THREE))
    report.write(tmp_path)
    html = (tmp_path / "report.html").read_text()
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert page.tags.count("svg") == 4
    assert all(target.startswith("#") for target in page.loads)
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]*)", html))
    assert "@import" not in html
    names = re.findall(r' id="([^"]+)"', html)
    assert len(names) == len(set(names)) > 0
    assert {target[1:] for target in page.loads} <= set(names)


def test_files_for_a_paper(tmp_path):
    """CSV reads back as the rows; LaTeX has a cell for each column and no bare special letter."""
    claim = CLAIM | {"contrasts": (config.greater("linear", "relu_6 & 50%", published=0.62),)}
    rows = write_workdir(tmp_path, make_sweep(arm("linear"), arm("relu_6 & 50%"), claim=claim))
    summary, drawn = report.write(tmp_path)
    runs = list(csv.DictReader((tmp_path / "tables" / "runs.csv").read_text().splitlines()))
    assert {(run["arm"], int(run["seed"])): float(run["accuracy"]) for run in runs} == pytest.approx(
        {(row["arm"], row["seed"]): 100 * row["metrics"]["accuracy"] for row in rows}, rel=1e-5
    )
    (line,) = (
        line
        for line in csv.DictReader((tmp_path / "tables" / "arms.csv").read_text().splitlines())
        if (line["arm"], line["metric"]) == ("relu_6 & 50%", "accuracy")
    )
    of = summary.comparisons[0].differences["accuracy"]
    assert [float(line[name]) for name in ("difference", "difference_high", "p")] == pytest.approx(
        [of.mean, of.high, of.p], rel=1e-5
    )
    latex = (tmp_path / "tables" / "differences_from_linear_uncorrected.tex").read_text()
    body = latex.split("\\midrule\n")[1].split("\\bottomrule")[0]
    assert body.startswith(r"relu\_6 \& 50\% & ")
    assert len(re.findall(r"(?<!\\)&", body)) == len(re.findall("r(?=r*})", latex.split("\n")[1])) - 1
    assert "$-$" in body
    pdfs = sorted((tmp_path / "figures").glob("*.pdf"))
    assert len(pdfs) == len(list((tmp_path / "figures").glob("*.svg"))) == len(drawn)
    assert all(path.read_bytes().startswith(b"%PDF") for path in pdfs)
    again = report.draw(tmp_path, summary)
    assert [figure.svg for figure in again] == [figure.svg for figure in drawn]
    assert {figure.pdf for figure in again} == {path.read_bytes() for path in pdfs}


@pytest.fixture
def draws(monkeypatch):
    """The workdirs that were drawn, in their order."""
    drawn, draw = [], report.draw
    monkeypatch.setattr(report, "draw", lambda workdir, summary: drawn.append(workdir) or draw(workdir, summary))
    return drawn


def test_a_report_is_drawn_again_only_where_something_changed(tmp_path, draws):
    """The index shows the pictures that stand there."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        write_workdir(folder, make_sweep(arm("linear"), arm("relu6"), seeds=range(3)), done=5)
    laboratory.report(folders)
    pages = [(tmp_path / "report.html").read_bytes(), *((folder / "report.html").read_bytes() for folder in folders)]
    assert draws == folders
    laboratory.report(folders)
    assert draws == folders
    again = [(tmp_path / "report.html").read_bytes(), *((folder / "report.html").read_bytes() for folder in folders)]
    assert again == pages

    plan = results.read_sweep(folders[0])
    results.write_row(folders[0], make_row(plan, plan.runs[5], make_metrics(plan.runs[5])))
    laboratory.report(folders)
    assert draws == [*folders, folders[0]]
    next((folders[1] / "figures").glob("*.svg")).unlink()
    (folders[0] / ".report.json").write_text("{")
    laboratory.report(folders)
    assert draws == [*folders, folders[0], *folders]
    laboratory.report([folders[1].rename(tmp_path / "c")])
    assert len(draws) == 5


def test_names_are_escaped(tmp_path):
    name = "<b>bold"
    claim = {**CLAIM, "text": "<script>alert(1)</script>", "contrasts": []}
    write_workdir(tmp_path, make_sweep(arm("linear"), arm(name), claim=claim, title="a <i>title"))
    report.write(tmp_path)
    _, text, markdown, _ = rendered(tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert not {"b", "i", "script"} & set(Page(html).tags)
    assert "&lt;b&gt;bold" in html
    assert name in text
    assert name not in markdown


def test_equal_costs_do_not_hide_one_another():
    costs = [figures.CostPoint(name, 1.2e6, 43e3, math.nan, stats.estimate([97.0, 98.0])) for name in "abcd"]
    figure = figures.value_by_cost(costs, ACCURACY)
    figure.draw_without_rendering()
    for axes in figure.axes:
        markers = [line for line in axes.lines if line.get_marker() == "o"]
        pixels = sorted(line.get_transform().transform(line.get_xydata())[0, 0] for line in markers)
        assert len(pixels) == 4
        assert min(np.diff(pixels)) > markers[0].get_markersize() * figure.dpi / 72
        assert axes.bbox.x0 < pixels[0] < pixels[-1] < axes.bbox.x1


def test_drawing_leaves_matplotlib_as_it_was():
    import matplotlib

    with matplotlib.rc_context({"font.size": 7.0, "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        figures.svg(figures.seeds({"a": (stats.estimate([1.0, 2.0]), [1.0, 2.0])}, ACCURACY))
        assert dict(matplotlib.rcParams) == before


def test_importing_the_report_is_cheap():
    heavy = ("jax", "matplotlib", "scipy", "jinja2", "rich", "sklearn", "PIL")
    code = f"import sys, mnet_jax.report; print([name for name in {heavy} if name in sys.modules])"
    command = [sys.executable, "-c", code]
    root = Path(report.__file__).parent.parent.parent
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# Several sweeps.


def both(tmp_path):
    """Two workdirs: one whole, one half way and without contrasts."""
    write_workdir(tmp_path / "a", make_sweep(*THREE))
    claim = {"text": "A <b>baseline", "source": "", "metric": "accuracy", "contrasts": []}
    write_workdir(tmp_path / "b", make_sweep(arm("one|two"), claim=claim, experiment="v1_baseline"), done=7)
    return {tmp_path / name: (report.summarize(tmp_path / name), []) for name in ("a", "b")}


def test_the_index_says_every_verdict_and_leads_to_its_page(tmp_path):
    reports = both(tmp_path)
    report.write_index(tmp_path / "out", reports)
    index, every = ((tmp_path / "out" / name).read_text() for name in ("index.html", "report.html"))
    (first, second) = (summary for summary, _ in reports.values())
    points = formatting.interval(ACCURACY, first.verdicts[0].difference, sign=True)
    for page in (index, every, report.index_text([first, second])):
        for shown in (points, "v2_linear_bottleneck", "v1_baseline", "supported", "7 of 12 runs"):
            assert shown in page
    linked = {link for link in Page(index).loads if not link.startswith("#")}
    assert linked == {"./../a/report.html", "./../b/report.html"}
    assert all(f'id="{link[1:]}"' in every for link in Page(every).loads)
    assert "+0.62" in index
    assert "Sandler et al. 2018, Figure 6a: 71.05 against 70.43" in index
    assert "<b>baseline" not in index
    assert max(map(len, report.index_text([first, second]).split("\n"))) <= 100


def test_over_experiments_all_p_are_corrected_together(tmp_path):
    """Two experiments of two contrasts: four raw p, by scipy; a contrast without runs does not count."""
    claim = CLAIM | {"contrasts": [config.greater("linear", "relu6"), config.greater("linear", "relu")]}
    summaries = []
    for name, done in (("a", None), ("b", None), ("c", 0)):
        shift = 0.002 * len(summaries)

        def metrics(run, shift=shift):
            return make_metrics(run) | {"accuracy": make_metrics(run)["accuracy"] - shift * (run.arm == "linear")}

        write_workdir(tmp_path / name, make_sweep(*THREE, claim=claim), done=done, metrics=metrics)
        summaries.append(report.summarize(tmp_path / name))
    raw = [verdict.p for summary in summaries[:2] for verdict in summary.verdicts]
    expected = [formatting.p_text(p) for p in scipy_stats.false_discovery_control(raw)]
    lines = index.corrected_lines(summaries)
    assert [corrected for of in lines for _, corrected in of] == [*expected, "–", "–"]
    assert "Primary contrasts here: 6, in 3 experiments" in index.families(summaries)
    assert "would still decide about 0.3 of them" in index.families(summaries)
    report.write_index(
        tmp_path, {tmp_path / name: (summary, []) for name, summary in zip("abc", summaries, strict=True)}
    )
    page = (tmp_path / "index.html").read_text()
    assert all(f'<td data-name="BH">{p}</td>' in page for p in expected)
    assert "Primary contrasts here: 6" in page
    assert "(Benjamini and Hochberg 1995)" in words(report.index_text(summaries))


def test_the_readme_table_is_written_between_its_comments(tmp_path):
    summaries = [summary for summary, _ in both(tmp_path).values()]
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n<!-- results -->\nold\n<!-- end of results -->\nafter\n")
    report.write_readme(readme, summaries)
    once = readme.read_text()
    report.write_readme(readme, summaries)
    assert readme.read_text() == once
    assert once.startswith("# Title\n<!-- results -->\n| experiment |")
    assert once.endswith(f" |\n\n{index.families(summaries)}\n<!-- end of results -->\nafter\n")
    assert "old" not in once
    points = formatting.interval(ACCURACY, summaries[0].verdicts[0].difference, sign=True)
    assert f"| linear − relu6 | +0.62 | {points} points | 12 | supported, p" in once
    assert "| `v1_baseline:digits`, 7 of 12 runs | A &lt;b>baseline | one\\|two: accuracy, % |" in once
    readme.write_text("# Title\n<!-- results -->\n")
    with pytest.raises(ValueError, match="has no lines '<!-- results -->' and '<!-- end of results -->'"):
        report.write_readme(readme, summaries)


# What the claim asks to be drawn.


def test_a_grid_has_every_cell_with_its_interval(tmp_path):
    names = {f"{act}@{width}": [width, act] for width in (8, 16) for act in ("linear", "relu6")}
    claim = {**CLAIM, "contrasts": [], "grid": {"x": "width", "y": "activation", "cells": names}}
    write_workdir(tmp_path, make_sweep(*map(arm, names), claim=claim, seeds=range(4)))
    summary = report.summarize(tmp_path)
    (picture,) = (picture for picture in report.draw(tmp_path, summary) if picture.title == "Interaction")
    for of_arm in summary.arms:
        found = of_arm.estimate(ACCURACY)
        assert f"{found.mean:.2f}" in picture.svg
        assert f"±{found.high - found.mean:.2f}" in picture.svg


def test_the_fit_is_that_of_numpy_and_has_the_papers_beside_it(tmp_path):
    """Four arms on a line of 2 points a doubling, the paper's on one of 5."""
    arms = [replace(arm(f"w{width}"), cost={**COST, "madds": 1e6 * width}) for width in (1, 2, 4, 8)]
    points = [{"label": "V1", "x": 1e8 * 2**step, "accuracy": 60 + 5 * step} for step in range(3)]
    curve = {"x": "madds", "points": {}, "series": {"width": [arm.name for arm in arms]}}
    claim = {**CLAIM, "contrasts": [], "curve": curve, "published_points": points}
    accuracy = {arm.name: 0.90 + 0.02 * step for step, arm in enumerate(arms)}
    write_workdir(
        tmp_path,
        make_sweep(*arms, claim=claim, seeds=range(3)),
        metrics=lambda run: {"accuracy": accuracy[run.arm] + 0.001 * run.seed, "nll": 0.1},
    )
    (picture,) = (p for p in report.draw(tmp_path, report.summarize(tmp_path)) if p.title == "Log-linear fit")
    assert "+2 a doubling" in picture.svg
    assert "+5 a doubling" in picture.svg
    _, residuals, _ = picture.figure.axes
    left_over = [float(line.get_ydata()[0]) for line in residuals.lines if line.get_marker() == "o"]
    assert left_over == pytest.approx([0] * 4)
    x, y = np.array([1.0, 2, 4, 8]), np.array([3.0, 1, 4, 1])
    expected = scipy_stats.linregress(np.log2(x), y)
    assert stats.log_line(x, y) == pytest.approx((expected.intercept, expected.slope))


def test_the_pareto_front_is_what_nothing_cheaper_exceeds():
    costs, values = np.array([1.0, 2, 2, 3, 4]), np.array([70.0, 75, 76, 74, 77])
    assert ablation._pareto(costs, values) == [0, 2, 4]


def test_latency_is_drawn_where_it_was_measured(tmp_path):
    printed = {"linear": {"top1": 72.0, "madds_m": 300, "params_m": 3.4, "latency_ms": 75}}
    sweep = make_sweep(*THREE, seeds=range(2), claim={**CLAIM, "printed": printed})
    write_workdir(tmp_path / "with", sweep, metrics=lambda run: make_metrics(run) | {"latency_ms": 3.0 + run.seed})
    write_workdir(tmp_path / "without", replace(sweep, claim=claims.parse(CLAIM, "the test")))
    with_it, without = (
        next(p for p in report.draw(tmp_path / name, report.summarize(tmp_path / name)) if p.title == "What it costs")
        for name in ("with", "without")
    )
    assert len(with_it.figure.axes) == 6, "three costs, here and in the paper"
    assert len(without.figure.axes) == 2


def test_many_metrics_leave_the_terminal_to_the_first(tmp_path):
    def metrics(run):
        return make_metrics(run) | {f"inside_{index}": index + 0.1 * run.seed for index in range(7)}

    declared = (*METRICS, *(Metric(f"inside_{index}", f"inside {index}") for index in range(7)))
    write_workdir(tmp_path, make_sweep(*THREE, seeds=range(3), metrics=declared), metrics=metrics)
    _, text, markdown, html = rendered(tmp_path)
    assert max(map(len, text.split("\n"))) <= 100
    assert "Also measured, on the page: inside 2, inside 3, inside 4, inside 5, inside 6" in words(text)
    for page in (markdown, html):
        assert "6.10 [5.85, 6.35]" in page


def test_the_page_says_that_the_seeds_followed_from_the_width(tmp_path):
    """Intervals everywhere are of the spread of the first four."""
    changed = {**CONFIG, "seeds": 4, "seeds_until": 0.5, "seeds_max": 12}
    rows = write_workdir(tmp_path, make_sweep(*THREE, config=changed))
    summary, *pages = rendered(tmp_path)
    d = paired(rows, "relu", "linear")
    half = scipy_stats.t.ppf(0.975, 3) * d[:4].std(ddof=1) / math.sqrt(12)
    for page in pages:
        words_of = words(page)
        assert "The number of seeds, 12, followed from the width" in words_of
        assert "4, then as many as their spread asked for" in words_of
        assert f"{d.mean():+.2f} [{d.mean() - half:+.2f}, {d.mean() + half:+.2f}]" in words_of
    assert summary.baseline.estimate(ACCURACY).degrees == 3


def test_what_is_inside_the_networks_is_drawn_where_runs_left_it(tmp_path):
    layers = {"block": 1, "channels": 8, "threshold": 4, "min": 2, "mean": 5, "max": 7, "std": 1, "above": 0.5}
    arrays = {f"{state}/{name}": np.full(3, value) for state in ("initial", "active") for name, value in layers.items()}
    arrays |= {"curve/threshold": np.logspace(-5, 0, 6), "curve/dead_depthwise": np.linspace(0, 1, 6)}
    write_workdir(tmp_path, make_sweep(*THREE[:2], seeds=range(2)))
    for run in ("linear-s0", "linear-s1", "relu6-s0"):
        results.write_arrays(tmp_path, run, arrays)
    pictures = {picture.title: picture.svg for picture in report.draw(tmp_path, report.summarize(tmp_path))}
    assert "positive channels (%)" in pictures["Active channels"]
    assert "dead depthwise (%)" in pictures["Dead channels"]


def test_shares_of_channels_are_percentages_in_a_table_of_their_own(tmp_path):
    dead = {"linear-s0": 0.01, "linear-s1": 0.03, "relu6-s0": 0.02, "relu6-s1": 0.05}
    plan = make_sweep(*THREE[:2], seeds=range(2))
    write_workdir(tmp_path, plan, metrics=lambda run: make_metrics(run) | {"dead_depthwise": dead[run.name]})
    summary = report.summarize(tmp_path)
    assert "dead depthwise" not in " ".join(tables.main_tables(summary)[0].header)
    (table,) = tables.more_tables(summary)
    assert table.header == ("arm", "dead depthwise, % [95 %]")
    assert [row[1].split()[0] for row in table.rows] == ["2.00", "3.50"]


def test_latencies_stand_beside_the_costs(tmp_path):
    """Medians, in milliseconds; arms that were not measured have none."""
    write_workdir(tmp_path, make_sweep(*THREE, seeds=range(2)))
    assert not any("ms /" in column for column in tables.main_tables(report.summarize(tmp_path))[0].header)
    results.write_latencies(tmp_path, {"linear": [0.002, 0.001, 0.009], "relu6": [0.003, 0.003, 0.001]})
    summary = report.summarize(tmp_path)
    assert [arm.latency_ms for arm in summary.arms[:2]] == [2.0, 3.0]
    table = tables.main_tables(summary)[0]
    assert table.header[-1] == "ms / image"
    assert [row[-1] for row in table.rows[:3]] == ["2.00", "3.00", "–"]
    cost = next(picture.svg for picture in report.draw(tmp_path, summary) if picture.title == "What it costs")
    assert "ms an image" in cost


# Any task.


def test_metrics_of_the_training_are_shown_where_the_claim_is_about_one(tmp_path):
    for metric, shown in (("accuracy", {"accuracy", "nll"}), ("train_loss", {one.name for one in METRICS[:4]})):
        write_workdir(tmp_path / metric, make_sweep(*THREE, seeds=range(3), claim={**CLAIM, "metric": metric}))
        summary = report.summarize(tmp_path / metric)
        assert summary.metric.name == metric
        assert {one.name for one in summary.metrics} == shown


def diverge_first(row):
    metrics = dict.fromkeys(row["metrics"], math.nan)
    return row | {"diverged_at": 120, "metrics": metrics} if row["run"] == "relu6-s3" else row


def test_a_diverged_run_without_a_score_is_left_out_and_named(tmp_path):
    distance = Metric("distance", "median distance", "km", 1, higher_is_better=False)
    sweep = make_sweep(*THREE, claim={**CLAIM, "metric": "distance"}, metrics=(distance,))
    write_workdir(tmp_path, sweep, metrics=lambda run: {"distance": 100.0 + run.seed}, change=diverge_first)
    summary, *pages = rendered(tmp_path)
    assert summary.arms[1].estimate(distance).n == 11
    assert summary.verdicts[0].difference.n == 11
    assert summary.done == 36
    for page in pages:
        words_of = words(page)
        assert "relu6-s3 diverged at step 120 and has no score in median distance: it is left out" in words_of
        assert "median distance, km" in words_of
        assert "0.0 km [" in words_of
    assert [figure.title for figure in report.draw(tmp_path, summary)][-1] == "Every run"


def test_a_tuning_goes_by_the_direction_of_the_first_metrics(tmp_path):
    """Two rates are as good in the first metric, of which less is better; of the second more is."""
    first, second = Metric("distance", "distance", "km", 1, higher_is_better=False), Metric("recall", "recall", "%", 2)
    scores = {0.1: (3.0, 0.9), 0.3: (2.0, 0.5), 0.6: (2.0, 0.7), 1.2: (3.0, 0.9)}

    def metrics(run):
        return dict(zip(("distance", "recall"), scores[float(run.arm.split("@lr")[1])], strict=True))

    write_workdir(tmp_path, replace(tune_sweep(tuple(scores)), metrics=(first, second)), metrics=metrics)
    summary, text, *_ = rendered(tmp_path)
    assert [choice.rate for choice in summary.tuned.values()] == [0.42, 0.42]
    assert summary.warnings == ()
    assert "distance, km [95 %]" in text
    assert "70.00" in text


@pytest.mark.parametrize("metric", [ACCURACY, NLL])
def test_curves_are_of_the_metric_that_decides(tmp_path, metric):
    write_workdir(tmp_path, make_sweep(*THREE, seeds=range(3), claim={**CLAIM, "metric": metric.name}))
    drawn = report.draw(tmp_path, report.summarize(tmp_path))
    (curves,) = (figure.figure for figure in drawn if figure.title == "Learning curves")
    unit = " (%)" if metric.unit else ""
    assert [axes.get_title(loc="left") for axes in curves.axes] == [f"held-out {metric.title}{unit}", "training loss"]


def test_the_index_compares_points_on_one_axis_and_others_apart(tmp_path):
    recall, distance = Metric("recall", "recall", "%", 2), Metric("distance", "distance", "km", 1)
    summaries = []

    def measured(run):
        return dict.fromkeys(("accuracy", "recall", "distance"), 0.5 + run.seed / 10)

    for metric in (ACCURACY, recall, distance):
        sweep = make_sweep(*THREE, seeds=range(3), claim={**CLAIM, "metric": metric.name}, metrics=(metric,))
        write_workdir(tmp_path / metric.name, sweep, metrics=measured)
        summaries.append(report.summarize(tmp_path / metric.name))
    points, apart = index.draw_all(summaries)
    assert (points.title, apart.title) == ("All differences in points", "All differences in distance, km")
    rows = [label.get_text() for label in points.figure.axes[0].get_yticklabels()]
    assert [row.split(", ")[-1] for row in rows] == ["accuracy", "recall"]
    assert len(apart.figure.axes[0].get_yticklabels()) == 1


# What a reader sees.


def test_one_arm_has_one_name(tmp_path):
    arms = (arm("linear"), arm("relu6", 0.3), arm("relu6@lr0.6", 0.6, "relu6"))
    write_workdir(tmp_path, make_sweep(*arms, seeds=range(3)))
    report.write(tmp_path)
    _, text, markdown, html = rendered(tmp_path)
    files = [
        path.read_text() for folder in ("tables", "figures") for path in (tmp_path / folder).glob("*.[tcs][evs][xvg]")
    ]
    assert len(files) > 4
    assert not any("relu6@lr0.6" in page for page in (text, markdown, html, *files))
    assert sum("relu6 at lr 0.6" in page for page in (text, markdown, html, *files)) > 5


@pytest.mark.parametrize(
    ("scale", "family", "changes", "shown"),
    [
        ("digits", "v2", {}, "scale digits, v2"),
        ("cifar10", "v1", {"model.stem": [8, 1]}, "scale cifar10, v1 but for model.stem [8, 1]"),
        ("mine", "v2", {"optim.warmup": 0.25}, "the defaults but for optim.warmup 0.25"),
    ],
)
def test_the_page_says_every_changed_setting(tmp_path, scale, family, changes, shown):
    """What the arms vary, here the learning rate, stands in the tables."""
    base = config.default() if scale == "mine" else config.at_scale(scale, family)
    flat = json.loads(json.dumps(config.flatten(base))) | {"optim.lr": 0.123} | changes
    write_workdir(tmp_path, make_sweep(*THREE, seeds=range(2), scale=scale, config=flat))
    _, text, *_ = rendered(tmp_path)
    assert f"settings: {shown}\n" in text


@pytest.mark.parametrize(("columns", "width"), [(20, 60), (72, 72), (500, 160)])
def test_the_text_is_as_wide_as_the_terminal(tmp_path, monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", str(columns))
    write_workdir(tmp_path, make_sweep(*THREE))
    summary = report.summarize(tmp_path)
    text = report.to_text(summary)
    assert max(map(len, text.split("\n"))) == width
    assert max(map(len, report.index_text([summary]).split("\n"))) <= width
    mean, low, high = t_interval(np.array(list(summary.arms[1].values["accuracy"].values())))
    assert f"{mean:.2f} [{low:.2f}, {high:.2f}]" in text
    assert ("For lack of room on the page only:" in text) == (width < 100)


def test_an_experiment_file_cannot_command_the_terminal(tmp_path):
    bad = "a\x1b]0;title\x07b\x1b[2Jc\x9bd\re"
    write_workdir(tmp_path, make_sweep(*THREE, title=bad, claim={**CLAIM, "text": bad}, command=bad))
    summary = report.summarize(tmp_path)
    for text in (report.to_text(summary), report.index_text([summary])):
        assert all(letter == "\n" or letter.isprintable() for letter in text)
    assert "a ]0;title b [2Jc d e" in report.to_text(summary)


def test_no_cell_of_a_csv_is_a_formula(tmp_path):
    write_workdir(tmp_path, make_sweep(arm("linear"), arm("=1+1"), arm("@x"), claim={}, seeds=range(2)))
    report.write(tmp_path)
    for name in ("arms.csv", "runs.csv"):
        lines = list(csv.reader((tmp_path / "tables" / name).read_text().splitlines()))
        assert {line[0] for line in lines[1:]} == {"linear", "'=1+1", "'@x"}
    assert re.search(r",-\d", (tmp_path / "tables" / "arms.csv").read_text()), "numbers stay numbers"


@pytest.mark.parametrize("name", ["javascript:alert(1)", "a#b", "a?b", "a%41b", "two words"])
def test_links_of_the_index_lead_to_the_folder_whatever_its_name(tmp_path, name):
    write_workdir(tmp_path / name, make_sweep(*THREE, seeds=range(2)))
    report.write_index(tmp_path, {tmp_path / name: (report.summarize(tmp_path / name), [])})
    (link,) = (link for link in Page((tmp_path / "index.html").read_text()).loads if not link.startswith("#"))
    parts = urlsplit(link)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
    assert unquote(parts.path) == f"./{name}/report.html"


def test_the_best_arm_of_a_latency_budget_is_one_that_no_faster_arm_exceeds(tmp_path):
    accuracies = {"linear": 0.95, "relu6": 0.97, "relu": 0.96}
    metrics = lambda run: {"accuracy": accuracies[run.arm], "nll": 0.1}  # noqa: E731
    write_workdir(tmp_path, make_sweep(*THREE, seeds=range(3)), metrics=metrics)
    results.write_latencies(tmp_path, {"linear": [0.001], "relu": [0.003], "relu6": [0.002]})
    *_, table = tables.main_tables(report.summarize(tmp_path))
    assert table.title == "Best arm within a latency budget"
    assert table.rows == (("1.00 to 2.00", "linear", "95.00"), ("2.00 on", "relu6", "97.00"))


def test_runs_that_guess_are_no_evidence(tmp_path):
    """Where no arm is better than guessing, no difference is claimed; an NLL above guessing's is named anyway."""
    plan = make_sweep(*THREE[:2], seeds=range(4))
    guess = lambda run: {"accuracy": 0.099 + 0.001 * run.seed, "nll": 8.6 + 0.1 * run.seed}  # noqa: E731
    write_workdir(tmp_path / "guessing", plan, metrics=guess)
    summary, text, *_ = rendered(tmp_path / "guessing")
    (verdict,) = summary.verdicts
    assert verdict.outcome == "no evidence"
    assert math.isnan(verdict.adjusted)
    assert "NO EVIDENCE: no arm is better than guessing in accuracy." in " ".join(text.replace("│", "").split())
    assert "would find" not in text
    first, second = summary.warnings
    assert first.startswith("no arm is better than guessing, whose accuracy is 10.00 %")
    assert second == "NLL worse than guessing, which has 2.303: linear (8.750), relu6 (8.750)"
    learns = lambda run: guess(run) | ({"accuracy": 0.5 + 0.01 * run.seed} if run.arm == "linear" else {})  # noqa: E731
    write_workdir(tmp_path / "learning", plan, metrics=learns)
    summary = report.summarize(tmp_path / "learning")
    assert summary.verdicts[0].outcome == "supported"
    assert len(summary.warnings) == 1


def test_what_every_arm_changes_and_what_the_base_config_changes_is_said(tmp_path):
    plain = replace(THREE[1], name="plain", overrides={"optim.lr": 0.6})
    config = CONFIG | {"model.project_act": "silu", "optim.lr": 0.2}
    write_workdir(tmp_path, make_sweep(THREE[0], plain, config=config, claim={}, seeds=range(2)))
    facts = sentences.provenance(report.summarize(tmp_path))
    assert facts["arms"] == "linear: model.project_act=linear, optim.lr=0.6; plain: optim.lr=0.6"
    assert "model.project_act silu" in facts["settings"], "an arm that does not set it has it"
    assert "optim.lr" not in facts["settings"], "every arm sets it"


def test_two_seeds_have_points_and_no_interval(tmp_path):
    for seeds in (2, 3):
        write_workdir(tmp_path / str(seeds), make_sweep(*THREE, seeds=range(seeds)))
        drawn = report.draw(tmp_path / str(seeds), report.summarize(tmp_path / str(seeds)))
        for figure in drawn:
            bars = [path for axes in figure.figure.axes for lines in axes.collections for path in lines.get_paths()]
            visible = sum(len(path.vertices) > 0 and bool(np.isfinite(path.vertices).all()) for path in bars)
            assert bool(visible) == (seeds == 3), figure.title
        assert ("[" in tables.main_tables(report.summarize(tmp_path / str(seeds)))[0].rows[0][2]) == (seeds == 3)


def test_axes_of_percentages_end_at_0_and_100(tmp_path):
    metrics = lambda run: {"accuracy": (1.0, 0.2, 0.9)[run.seed % 3], "nll": 0.1}  # noqa: E731
    write_workdir(tmp_path, make_sweep(*THREE, seeds=range(3)), metrics=metrics)
    drawn = {figure.title: figure.figure for figure in report.draw(tmp_path, report.summarize(tmp_path))}
    mean = report.summarize(tmp_path).arms[0].estimate(ACCURACY)
    assert (mean.low, mean.high) == (0, 100), "the t-interval is wider"
    for limits in (drawn["What it costs"].axes[0].get_ylim(), drawn["Every run"].axes[0].get_xlim()):
        assert limits == (-2, 102)
    assert drawn["Learning curves"].axes[0].get_ylim()[1] <= 102


POINTS = (("a", 1e6, 3.0), ("b", 2e6, 2.0), ("c", 4e6, 5.0))


def test_lower_may_be_better_on_the_pareto_front():
    one = [figures.CostPoint(name, madds, math.nan, math.nan, stats.estimate([value])) for name, madds, value in POINTS]
    fronts = []
    for metric in (NLL, ACCURACY):
        (axes,) = figures.value_by_cost(one, metric).axes
        (line,) = (line for line in axes.lines if line.get_linestyle() == "--")
        fronts.append(np.asarray(line.get_ydata()).tolist())
    assert fronts == [[3.0, 2.0], [3.0, 5.0]]


def test_figures_are_labelled_by_what_they_show(tmp_path):
    write_workdir(tmp_path, make_sweep(*THREE, seeds=range(4)))
    summary = report.summarize(tmp_path)
    (tmp_path / "any.svg").write_text("<svg/>")
    titles = ("Differences from linear", "Every run")
    html = report.to_html(summary, [kept.KeptFigure(title, "", str(tmp_path / "any.svg")) for title in titles])
    difference = formatting.interval(ACCURACY, summary.comparisons[0].differences["accuracy"], sign=True)
    assert f'aria-label="Differences from linear: accuracy, points: relu6 {difference}; relu ' in html
    mean = formatting.interval(ACCURACY, summary.arms[2].estimate(ACCURACY))
    assert f'; relu {mean}"' in html.partition('aria-label="Every run: accuracy, %: linear ')[2]


def test_headings_of_tables_say_what_they_are_of(tmp_path):
    write_workdir(tmp_path, make_sweep(*THREE, seeds=range(2)))
    html = report.to_html(report.summarize(tmp_path), ())
    assert html.count('<th scope="row">') == 3 + 2
    assert not re.search(r"<th(?! scope=|ead)", html)


@pytest.mark.parametrize(("series", "legends"), [(1, 0), (28, 1), (29, 0)])
def test_a_legend_names_series_that_look_different(series, legends):
    figure, axes = style.subplots(3, 2)
    for number in range(series):
        axes.plot([0, 1], label=f"a{number}", **style.line_style(number))
    style.legend(figure, axes, 4)
    assert len(figure.legends) == legends
