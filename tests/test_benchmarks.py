"""The benchmarks, on Demo and on invented measurements."""

import json
import subprocess
import sys

import numpy as np
import pytest

from dataset.files import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import answering
import benchmark
import floor
import scaling

from sessionrec.recipes import load_recipe


def test_a_contest_runs_and_writes_its_results(tmp_path, monkeypatch):
    """With ours and the report's implementation only: RecBole needs another environment."""
    contest = {who: benchmark.CONTESTS["GRU4REC"][who] for who in ("ours", "the report's way")}
    monkeypatch.setattr(benchmark, "CONTESTS", {"GRU4REC": contest})
    monkeypatch.setattr(benchmark, "MOST_EPOCHS", 2)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--dataset", "Demo", "--threads", "1"])
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--output", str(tmp_path)])
    benchmark.main()
    measured = json.loads((tmp_path / "speed.json").read_text())["GRU4REC"]["contestants"]
    epochs = load_recipe("best", "GRU4REC", "demo").fit["epochs"]
    assert [row["epoch"] for row in measured["ours"]["epochs"]] == [*range(1, epochs + 1)]
    assert len(measured["the report's way"]["epochs"]) == 2
    assert measured["ours"]["epochs"][-1]["loss"] < measured["ours"]["epochs"][0]["loss"]
    assert all(one["test"]["MRR@20"] > 0 and one["peak_mib"] > 50 for one in measured.values())
    table = (tmp_path / "speed.md").read_text()
    assert "| ours (GRU4REC) | the report's way (GRU4REC) |" in table and "| the floor |" in table
    assert (tmp_path / "speed.png").stat().st_size > 10_000
    # Existing measurements are not repeated.
    monkeypatch.setattr(benchmark, "run_contest", None)
    benchmark.main()
    # On other hardware they are. The table names the hardware of each measurement.
    here = json.loads((tmp_path / "speed.json").read_text())["GRU4REC"]
    elsewhere = here | {"hardware": "an abacus, 1 threads"}
    (tmp_path / "speed.json").write_text(json.dumps({"GRU4REC": elsewhere, "NARM": elsewhere}))
    monkeypatch.setattr(benchmark, "CONTESTS", {"GRU4REC": contest, "NARM": contest})
    monkeypatch.setattr(benchmark, "run_contest", lambda *_: here)
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--only", "GRU4REC"])
    benchmark.main()
    stored = json.loads((tmp_path / "speed.json").read_text())
    assert stored == {"GRU4REC": here, "NARM": elsewhere}
    table = (tmp_path / "speed.md").read_text()
    assert f"GRU4REC: {here['date']}; {here['hardware']}." in table
    assert f"NARM: {here['date']}; an abacus, 1 threads." in table
    # Results of one dataset are not mixed with another's.
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--dataset", "Amazon_Beauty", "--output", str(tmp_path)])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert json.loads((tmp_path / "speed.json").read_text()) == stored


def test_seconds_until_a_target():
    epochs = [
        {"seconds": 2, "valid_seconds": 0.5, "MRR@20": 0.1},
        {"seconds": 3, "valid_seconds": 0.5, "MRR@20": 0.2},
        {"seconds": 9, "valid_seconds": 9, "MRR@20": 0.15},
    ]
    assert benchmark.seconds_until(epochs, 0.1) == 2.5
    assert benchmark.seconds_until(epochs, 0.12) == 6
    assert benchmark.seconds_until(epochs, 0.3) is None


@pytest.mark.parametrize(("best", "fair"), [(0.093, True), (0.0851, True), (0.0849, False)])
def test_a_peer_far_below_its_known_quality_is_invalid(best, fair):
    epoch = {"epoch": 1, "seconds": 1, "valid_seconds": 1, "MRR@20": best}
    one = {"model": "GRU4Rec", "epochs": [epoch], "peak_mib": 1, "test": {"MRR@20": 0.1}}
    one["scoring"] = [{"queries": 10, "seconds": 2}, {"queries": 10, "seconds": 1}]
    (row,) = benchmark.summarize_contest({"contestants": {"RecBole": one}})
    assert row["fair"] == fair
    assert row["queries"] == 10


def test_the_floor_by_hand():
    rates = {"fp32": 1e9, "bytes": 1e9}
    found = floor.floor_of(rates, steps=100, items=1000, width=10, batches=2, parameters=1000)
    # Products 6 x 100 x 1000 x 10 flops; logits 2 x 4 x 100 x 1000 bytes; Adam 7 x 4 x 1000 x 2 bytes.
    assert found["epoch"] == pytest.approx(0.006 + 0.0008 + 0.000056)
    assert found["queries"] == pytest.approx(1 / (20_000 / 1e9 + 4_000 / 1e9))


def test_exponents_of_curves():
    sizes = [10, 100, 1000, 10_000]
    assert scaling.slope(sizes, [5 + size**2 for size in sizes]) == pytest.approx(2, abs=0.01)
    results = {
        size: {"task": "train", "sessions": size, "items": scaling.FEW_ITEMS, "seconds": size / 7} for size in sizes
    }
    curves = scaling.curves_of(results, "seconds", "sessions", 10_000)
    assert curves["train"][2] == pytest.approx(1)
    assert "train" not in scaling.curves_of(results, "seconds", "items", 10_000)


@pytest.mark.parametrize("task", scaling.TASKS)
def test_scaling_measures_a_task(task):
    command = [sys.executable, str(ROOT / "benchmarks" / "scaling.py"), "--threads", "1", "--run", task]
    done = subprocess.run([*command, "300", "200"], capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout)
    assert measured["seconds"] > 0 and measured["peak_mib"] > 50


def test_synthetic_sessions_have_a_structure():
    items, lengths = scaling.make_sequences(2000, 500)
    assert items.min() >= 1 and items.max() <= 500 and lengths.sum() == len(items)
    assert set(lengths) == {2, 3, 4, 5, 6}
    starts = np.r_[0, np.cumsum(lengths)[:-1]]
    pairs = set(zip(items[starts].tolist(), items[starts + 1].tolist(), strict=True))
    assert len(pairs) < 0.8 * len(starts)  # successors repeat


def test_answering_is_measured_for_every_kind_of_model(tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "ITEMS", 600)
    monkeypatch.setattr(answering, "SESSIONS", 400)
    output = tmp_path / "answering.md"
    command = ["--dataset", "Demo", "--only", "GRU4REC,RandomWalk,Ensemble", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["answering.py", *command])
    answering.main()
    _, _, about, floor_line, _, head, _, *rows = output.read_text().splitlines()
    assert about.startswith("Demo, ") and "; load before the start " in about
    assert head.split(" | ")[3] == "one query, ms"
    cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in rows}
    assert [bool(cell) for cell in cells["GRU4REC"]] == [True, True, True, False]
    assert [bool(cell) for cell in cells["RandomWalk"]] == [True, False, True, True]
    assert cells["Ensemble"] == ["", "", "", ""]  # none is committed for Demo


def test_the_table_of_answers_by_hand():
    measured = {
        "GRU4REC": {"rate": 2000.4, "latency": 0.00125},
        "SKNN": {"rate": 5e3, "latency": 0.002, "synthetic": 7},
    }
    text = answering.describe(measured, "Here.", floor=3000.0)
    assert "is 3,000 queries per second" in text
    assert "| GRU4REC | 2,000 | 1.5 | 1.25 |  |" in text
    assert "| SKNN | 5,000 |  | 2.00 | 7 |" in text


def test_sessions_of_answering_have_groups():
    lists = answering.make_sessions(600, 2000, 13, 20)
    assert len(lists) == 2000 and min(map(len, lists)) == 2
    assert np.mean([*map(len, lists)]) == pytest.approx(13, abs=0.5)
    assert {item for session in lists for item in session} <= {*range(1, 601)}
    largest = [np.bincount(np.array(s) % 20).max() / len(s) for s in lists]
    assert np.mean(largest) > 0.6
