"""Saved runs in results/runs: every committed one fits, and a hostile file is one sentence."""

import json
import os

import pytest

from experiments.saved_runs import RUNS, read_json

GOOD = json.loads((RUNS / "Ensemble_beauty_user_best_0_0.json").read_text())


def test_every_committed_run_is_read():
    files = sorted(RUNS.glob("*.json"))
    assert len(files) > 100 and {read_json(file)["model"] for file in files} >= {"NARM", "Ensemble", "STAN"}


def changed(**values):
    return json.dumps(GOOD | values)


HOSTILE = {
    "half": (json.dumps(GOOD)[:500], "is damaged"),
    "nested": ("[" * 200_000, "is damaged"),
    "nested in a dict": ('{"a":' * 200_000, "is damaged"),
    "a list": ("[]", "the result=[]: must be a table"),
    "empty": ("", "is damaged"),
    "another file": ('{"nbformat": 4}', "it lacks model"),
    "no ranks": (changed(ranks=None), "ranks=None: must be a table"),
    "ranks of text": (changed(ranks=GOOD["ranks"] | {"valid": ["1"]}), "ranks.valid are not whole numbers"),
    "ranks of 0": (changed(ranks=GOOD["ranks"] | {"valid": [0]}), "ranks.valid are not whole numbers"),
    "ranks of true": (changed(ranks=GOOD["ranks"] | {"valid": [True]}), "ranks.valid are not whole numbers"),
    "ranks too large": (changed(ranks=GOOD["ranks"] | {"valid": [2**70]}), "ranks.valid are not whole numbers"),
    "ranks of one split": (changed(ranks={"valid": [1]}), "not of the same splits"),
    "metrics of NaN": (changed(metrics={"valid": {"MRR@20": float("nan")}}), "must be a number"),
    "metrics of text": (changed(metrics={"valid": {"MRR@20": "0.1"}}), "must be a number"),
    "no validation": (changed(metrics={}, ranks={}), "not of `valid`"),
    "recipe values": (changed(recipe_values={"fit": 1}), "recipe_values.fit=1: must be a table"),
    "members": (changed(members=[{"model": 1}]), "members[0].model=1: must be text"),
    "no members": (changed(members=None), "members=None: must be a list"),
    "table": (changed(table={"epoch": [1], "loss": []}), "columns of its table have different lengths"),
    "seconds": (changed(train_seconds="x"), "train_seconds='x': must be a number"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_one_sentence(case, tmp_path):
    text, reason = HOSTILE[case]
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(
        ValueError, match=r"^[^\n]*x\.json is damaged \([^\n]*\); delete it to repeat the run$"
    ) as error:
        read_json(file)
    assert reason in str(error.value) and len(str(error.value)) < 500


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX")
def test_a_pipe_or_an_endless_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(5 << 30)  # takes no place on the disk
    for name in ("pipe.json", "large.json"):
        with pytest.raises(ValueError, match="is damaged .it is no file of at most 268,435,456 bytes"):
            read_json(tmp_path / name)
