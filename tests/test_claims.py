"""A mistake in an experiment file is one clear line when it is planned, not hours later."""

import pytest
from tiny import EXPERIMENT, write

from mnet_jax import experiment, results, sweep
from mnet_jax.config import claims
from mnet_jax.errors import UserError


def refusal(folder, text, overrides=None):
    with pytest.raises(UserError) as caught:
        sweep.plan(experiment.load(write(folder, text)), "digits", overrides or {}, "train", "")
    message = str(caught.value)
    assert "\n" not in message
    return message


LINEAR_AND_RELU6 = '"linear", "relu6"'

CLAIMS = [
    (
        "{'metric': 'acuracy', 'contrasts': (config.greater('linear', 'relu6'),)}",
        "no metric 'acuracy'; did you mean 'accuracy'?; this task's are accuracy, nll, train_loss, train_accuracy",
    ),
    ("{'metric': 'f1', 'contrasts': (config.greater('linear', 'relu6'),)}", "no metric 'f1'"),
    (
        "{'contrast': (config.greater('linear', 'relu6'),)}",
        "the claim has no key 'contrast'; did you mean 'contrasts'?; allowed: text, source, asked_by, published",
    ),
    ("{'metrc': 'nll'}", "the claim has no key 'metrc'; did you mean 'metric'?"),
    ("{'txt': 'linear is better'}", "the claim has no key 'txt'; did you mean 'text'?"),
    (
        "{'asked_by': 'papre', 'contrasts': (config.greater('linear', 'relu6'),)}",
        "the claim's asked_by is a str, 'papre'; did you mean 'paper'?; allowed: paper, reader, ours",
    ),
    (
        "{'contrasts': (config.greater('linear', 'relu6', asked_by='me'),)}",
        "contrast 1 (greater): asked_by is a str, 'me'; allowed: paper, reader, ours",
    ),
    (
        "{'contrasts': (config.straight(('linear', 'relu6'), (1, 2), 1.0),)}",
        "contrast 1 (straight): 2 arms and 2 x; allowed: as many x as different arms, at least 3",
    ),
    (
        "{'contrasts': ({'kind': 'greater', 'arms': ('linear', 'relu6'), 'margin': 1},)}",
        "contrast 1 (greater): margin=1; allowed: none, which only equivalent and straight have",
    ),
    ("{'text': 7}", "the claim's text is a int, 7; allowed: a string"),
    ("'linear is better'", "the claim is a str, 'linear is better'; allowed: a dict with keys of text, source"),
    ("({'metric': 'accuracy'},)", "the claim is a tuple"),
    ("{'metric': 'accuracy'}", "2 arms and no contrast: say what decides"),
    ("{}", "2 arms and no contrast: say what decides"),
    (
        "{'contrasts': config.greater('linear', 'relu6')}",
        "the claim's contrasts is a Contrast",
    ),
    ("{'contrasts': ('linear', 'relu6')}", "contrast 1 is a str, 'linear'; allowed: config.greater, equivalent"),
    (
        "{'contrasts': ({'kind': 'grater', 'arms': ('linear', 'relu6')},)}",
        "contrast 1: no kind 'grater'; did you mean 'greater'?; allowed: greater, equivalent, trend, interaction",
    ),
    ("{'contrasts': ({'kind': 'bigger', 'arms': ('linear', 'relu6')},)}", "contrast 1: no kind 'bigger'"),
    ("{'contrasts': (config.greater('linear', 'relu7'),)}", "names arm 'relu7'; did you mean 'relu6'?"),
    ("{'contrasts': (config.greater('linear', 'linear'),)}", "contrast 1 (greater) compares arm 'linear' with itself"),
    (
        "{'contrasts': ({'kind': 'greater', 'arms': ('linear',)},)}",
        "contrast 1 (greater) compares 1 arms; allowed: 2",
    ),
    (
        "{'contrasts': (config.trend(('linear', 'relu6'), (1, 2, 3)),)}",
        "contrast 1 (trend): 2 arms and 3 x; allowed: as many x as different arms, at least 2",
    ),
    ("{'contrasts': (config.trend(('linear', 'linear'), (1, 2)),)}", "as many x as different arms"),
    (
        "{'contrasts': (config.trend(('linear', 'relu6'), ('one', 'two')),)}",
        "contrast 1 (trend): x is a str, 'one'; allowed: a finite number",
    ),
    (
        "{'contrasts': (config.trend(('linear', 'relu6'), (1, 1)),)}",
        "contrast 1 (trend): x is (1, 1); allowed: at least 2 different numbers",
    ),
    ("{'contrasts': (config.trend(('linear', 'relu6'), (1, float('nan'))),)}", "x is a float, nan; allowed: a finite"),
    (
        "{'contrasts': (config.trend(('linear', 'relu6'), (1, 2), sign=0),)}",
        "contrast 1 (trend): sign=0; allowed: 1 (grows) and -1 (falls)",
    ),
    (
        "{'contrasts': (config.interaction((('linear', 'relu6'),), (1, 2)),)}",
        "contrast 1 (interaction): 2 arms and 2 x; allowed: one x for each pair, at least 2 pairs",
    ),
    (
        "{'contrasts': (config.equivalent('linear', 'relu6', -1),)}",
        "contrast 1 (equivalent): margin=-1; allowed: a positive number, in points for accuracies",
    ),
    ("{'contrasts': (config.equivalent('linear', 'relu6', float('nan')),)}", "margin is a float, nan"),
    ("{'contrasts': ({'kind': 'equivalent', 'arms': ('linear', 'relu6')},)}", "margin is a NoneType, None"),
    (
        "{'contrasts': (config.greater('linear', 'relu6', published='0.6'),)}",
        "contrast 1 (greater): published is a str, '0.6'; allowed: a finite number",
    ),
    ("{'contrasts': ({'kind': 'greater', 'arms': ('linear', 'relu6'), 'margn': 1},)}", "did you mean 'margin'?"),
    (
        "{'contrasts': (config.greater('linear', 'relu6'),), 'curve': {'x': 'depth', 'series': {'a': ('linear',)}}}",
        "the claim's curve: no point for linear; x = 'depth' needs one each",
    ),
    (
        "{'contrasts': (config.greater('linear', 'relu6'),), 'curve': {'points': {'linear': 1}}}",
        "the claim's curve has no 'x'",
    ),
    (
        "{'contrasts': (config.greater('linear', 'relu6'),), 'curve': {'x': 'madds', 'series': {'a': ('relu',)}}}",
        "the claim's curve names arm 'relu'; did you mean 'relu6'?",
    ),
    (
        "{'contrasts': (config.greater('linear', 'relu6'),), 'grid': {'x': 'a', 'y': 'b', 'cells': {'relu': (1, 2)}}}",
        "the claim's grid names arm 'relu'; did you mean 'relu6'?",
    ),
    (
        "{'contrasts': (config.greater('linear', 'relu6'),), 'grid': {'x': 'a', 'y': 'b', 'cells': {'relu6': 1}}}",
        "the cell of relu6 is a int, 1; allowed: a pair of numbers",
    ),
    (
        "{'contrasts': (config.greater('linear', 'relu6'),), 'printed': {'relu': {'top1': 72.0}}}",
        "the claim's printed names arm 'relu'; did you mean 'relu6'?",
    ),
    (
        "{'contrasts': (config.greater('linear', 'relu6'),), 'printed': {'relu6': {'top_1': 72.0}}}",
        "the claim's printed: relu6 has no key 'top_1'; did you mean 'top1'?",
    ),
    (
        "{'contrasts': (config.greater('linear', 'relu6'),), 'equal_madds': (('linear', 'relu'),)}",
        "the claim's equal_madds names arm 'relu'; did you mean 'relu6'?",
    ),
    (
        "{'contrasts': (config.greater('linear', 'relu6'),), 'equal_madds': ('linear', 'relu6')}",
        "the claim's equal_madds: arms is a str, 'linear'; allowed: a tuple of arm names",
    ),
    (
        "{'contrasts': (config.greater('linear', 'relu6'),), 'published_points': ({'label': 'V2', 'x': 300e6},)}",
        "a published point has no 'accuracy'",
    ),
    ("lambda cfg: 1 / 0", "claim(config) raises ZeroDivisionError: division by zero"),
]


@pytest.mark.parametrize(("claim", "message"), CLAIMS, ids=[claim for claim, _ in CLAIMS])
def test_a_wrong_claim_is_refused_before_anything_is_trained(tmp_path, claim, message):
    refused = refusal(tmp_path, f"{EXPERIMENT}\nclaim = {claim}\n")
    assert refused.startswith("tiny:digits: ")
    assert message in refused


FILES = [
    (
        f'for act in ({LINEAR_AND_RELU6}):\n        yield {{"model.project_act": act}}',
        'yield from config.tuned({"a": {}, "b": {"model.width": 2.0}}, {"digits": {"bb": 0.3}}, cfg)',
        "tiny:digits: a learning rate for arm 'bb'; did you mean 'b'?; the arms are a, b",
    ),
    ("    return cfg\n", "", "tiny:digits: get_config returns None; allowed: a config, as config.at_scale makes"),
    (
        "    return cfg\n",
        "    cfg.model.lasst = 128\n    return cfg\n",
        "tiny:digits: no such field 'lasst'; did you mean 'model.last'?",
    ),
    ("    return cfg\n", "    cfg.model.width = 'big'\n    return cfg\n", "tiny:digits: "),
    ("    return cfg\n", "    import sys; sys.exit(0)\n", "tiny:digits: get_config raises SystemExit: 0"),
    ('"""Tiny ', 'import sys; sys.exit(0)\n"""Tiny ', "cannot be imported: SystemExit: 0"),
    (
        LINEAR_AND_RELU6,
        '"linear", "hardswish"',
        "model.project_act='hardswish'; allowed: 'linear', 'relu', 'relu6'",
    ),
    (
        '{"model.project_act": act}',
        '{"model.project_act": act, "seeds": 3}',
        "arms cannot differ in seeds, which is the whole sweep's",
    ),
    (
        '{"model.project_act": act}',
        '{"model.project_act": act, "train.hang_seconds": 9.0}',
        "arms cannot differ in train.hang_seconds, which is the whole sweep's",
    ),
    ('{"model.project_act": act}', "act", "sweep(config) yields 'linear'; allowed: dicts of overrides"),
    ("yield {", "1 / 0; yield {", "sweep(config) raises ZeroDivisionError"),
    (
        f'for act in ({LINEAR_AND_RELU6}):\n        yield {{"model.project_act": act}}',
        'yield {"name": "a"}\n    yield {"name": "b", "optim.lr": 0.3}\n'
        '    yield {"name": "b@lr0.1", "model.width": 2.0}',
        "'b@lr0.1' is the name of arm 'b' at the baseline's rate; choose another",
    ),
]


@pytest.mark.parametrize(("old", "new", "message"), FILES, ids=[message for *_, message in FILES])
def test_a_wrong_file_is_refused_before_anything_is_trained(tmp_path, old, new, message):
    text = EXPERIMENT.replace(old, new)
    assert text != EXPERIMENT
    if "'b@lr0.1'" in message:
        text = text.replace(LINEAR_AND_RELU6, '"a", "b"')
    assert message in refusal(tmp_path, text)


def test_the_scale_is_no_override(tmp_path):
    refused = refusal(tmp_path, EXPERIMENT, {"scale": "imagenet"})
    assert refused.startswith("command line: the scale is part of --config: ")
    assert refused.endswith("tiny.py:imagenet")


def test_a_claim_survives_the_disk(tmp_path):
    claim = {
        "text": "it grows",
        "contrasts": (
            claims.greater("linear", "relu6", published=0.6),
            claims.equivalent("linear", "relu6", 2.0),
            claims.trend(("linear", "relu6"), (1, 2), sign=-1),
            claims.interaction((("linear", "relu6"), ("relu6", "linear")), (1, 2)),
            claims.straight(("linear", "relu6", "relu"), (1, 2, 3), 0.5, asked_by="reader"),
            claims.off_line(("linear", "relu6", "relu"), (1, 2, 3), sign=-1),
        ),
        "equal_madds": (("linear", "relu6"),),
        "curve": {"x": "depth", "points": {"linear": 1, "relu6": 2}, "series": {"a": ("linear", "relu6")}},
        "grid": {"x": "a", "y": "b", "cells": {"linear": (1, 2)}},
        "printed": {"linear": {"top1": 72.0, "madds_m": 300}},
        "published_points": ({"label": "V2", "x": 300e6, "accuracy": 72.0},),
    }
    parsed = claims.parse(claim, "here")
    results.write_atomic(tmp_path / "claim.json", results.to_json(claims.to_json(parsed)))
    assert claims.parse(results.read_json(tmp_path / "claim.json"), "there") == parsed
