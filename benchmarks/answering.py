"""How fast models answer: queries per second in batches, and the latency of one query.

    python benchmarks/answering.py [--dataset Amazon_Beauty] [--threads 1] [--only GRU4REC,RandomWalk]

Every model ranks the test queries of a dataset (top 20, fastest of five runs) and answers sessions one at a time by
`recommend` (median). The neural models are not trained, which does not change their speed; the Ensemble is the
committed one, or left out if there is none. The baselines are also measured on synthetic sessions with a larger
catalogue: 23,600 items, 40,000 sessions of 13 items on average, Zipf popularity, 60 % of a session from one of 600
groups of items.

Output: answering.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmark import hardware, table_row  # noqa: E402
from floor import best_seconds, floor_of, measure_rates  # noqa: E402

from dataset.files import ROOT, replacing  # noqa: E402
from dataset.find import load_dataset  # noqa: E402
from dataset.folders import SessionDataset  # noqa: E402
from models import BASELINES, MODELS, Model, build_model  # noqa: E402
from process_data import Queries, Sessions, prepare  # noqa: E402
from sessionrec.checkpoint import Checkpoint, load_checkpoint, make_checkpoint  # noqa: E402
from sessionrec.device import seed_everything  # noqa: E402
from sessionrec.recipes import load_recipe  # noqa: E402
from sessionrec.recommend import recommend  # noqa: E402
from sessionrec.scoring import top_items  # noqa: E402

K = 20
ITEMS, SESSIONS, MEAN_LENGTH, GROUPS, QUERIES = 23_600, 40_000, 13, 600, 2_000


def make_sessions(items: int, sessions: int, mean_length: int, groups: int, *, seed: int = 0) -> list[list[int]]:
    """Random sessions of items 1..n. Item i belongs to group i % groups."""
    generator = np.random.default_rng(seed)
    lengths = 1 + generator.geometric(1 / (mean_length - 1), sessions)
    total = lengths.sum()

    def zipf(n: int) -> np.ndarray:
        """(total,) ranks 0..n - 1."""
        share = np.cumsum(1 / np.arange(1, n + 1) ** 0.9)
        return np.searchsorted(share, generator.random(total) * share[-1])

    group = np.repeat(generator.integers(0, groups, sessions), lengths)
    own, any_group = zipf(items // groups) * groups + group, zipf(items)
    flat = 1 + np.where(generator.random(total) < 0.6, own, any_group)
    return [part.tolist() for part in np.split(flat, np.cumsum(lengths)[:-1])]


def batch_rate(model: Model, queries: Queries, *, repeats: int = 5) -> float:
    """Queries per second: scores and top 20."""
    return len(queries) / best_seconds(lambda: top_items(model, queries, k=K), repeats=repeats)


def single_latency(checkpoint: Checkpoint, sessions: list[list[int]]) -> float:
    """Median seconds of `recommend` for one session of raw ids, without the first calls."""
    seconds = []
    for session in sessions:
        started = time.perf_counter()
        recommend(checkpoint, [session], K)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[len(seconds) // 5 :]))


def measure_dataset(name: str, dataset: SessionDataset) -> dict[str, float]:
    """`rate` and `latency` of a model on a dataset; empty for an Ensemble that is not committed."""
    data = prepare(dataset)
    if name == "Ensemble":
        path = ROOT / "pretrained_model" / dataset.name.removeprefix("Amazon_") / "Ensemble.safetensors"
        if not path.exists():
            return {}
        data = prepare(dataset, split="none")
        checkpoint = load_checkpoint(path)
        queries = Queries.of(data.train.take(np.arange(min(5000, len(data.train)))), data.popularity, data.mask_seen)
    else:
        seed_everything(0)
        model = build_model(name, n_items=data.n_items, **load_recipe("best", name, dataset.short_name).model).eval()
        checkpoint, queries = make_checkpoint(model, data), data.test
        if name in BASELINES:
            model.fit(data.train, data.popularity)
    sessions = [dataset.train[row] for row in range(min(250, len(dataset.train)))]
    return {"rate": batch_rate(checkpoint.model, queries), "latency": single_latency(checkpoint, sessions)}


def measure_synthetic(name: str, lists: list[list[int]]) -> dict[str, float]:
    """`synthetic`: queries per second of a baseline on synthetic sessions; the last ones are the queries."""
    inputs, labels = [s[:-1] for s in lists], [s[-1] for s in lists]
    rows = Sessions.from_lists(inputs, labels, range(len(lists)), n_items=ITEMS)
    queried = min(QUERIES, len(lists) // 4)
    train = rows.take(np.arange(len(lists) - queried))
    popularity = np.bincount(np.r_[train.items, train.labels], minlength=ITEMS + 1)
    model = build_model(name, n_items=ITEMS, **load_recipe("best", name, "synthetic").model).fit(train, popularity)
    queries = Queries.of(rows.take(np.arange(len(lists) - queried, len(lists))), popularity, mask_seen=False)
    return {"synthetic": batch_rate(model, queries, repeats=3)}


def describe(measured: dict[str, dict[str, float]], about: str, floor: float) -> str:
    """The measurements as Markdown."""
    table = [["model", "queries per second", "times the floor", "one query, ms", "synthetic, queries per second"]]
    for name, found in measured.items():
        rate, latency, synthetic = (found.get(key) for key in ("rate", "latency", "synthetic"))
        row = [name, f"{rate:,.0f}" if rate else "", f"{floor / rate:.1f}" if rate and name not in BASELINES else ""]
        row += [f"{1000 * latency:.2f}" if latency else "", f"{synthetic:,.0f}" if synthetic else ""]
        table.append(row)
    rows = [table_row(*row) for row in (table[0], ["---"] * 5, *table[1:])]
    floor_line = f"The floor of a neural model (`floor.py`, float32) is {floor:,.0f} queries per second."
    return "\n".join(["# How fast models answer", "", about, floor_line, "", *rows, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="Amazon_Beauty")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default=",".join(MODELS), help="names with commas between")
    parser.add_argument("--output", type=Path, default=HERE / "answering.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dataset, lists = load_dataset(args.dataset), make_sessions(ITEMS, SESSIONS, MEAN_LENGTH, GROUPS)
    load = os.getloadavg()[0]
    n_items = prepare(dataset).n_items
    rates = measure_rates(steps=1024, items=n_items, width=128)
    floor = floor_of(rates, steps=1, items=n_items, width=128, batches=1, parameters=1)["queries"]
    measured = {}
    for name in args.only.split(","):
        measured[name] = measure_dataset(name, dataset)
        if name in BASELINES:
            measured[name] |= measure_synthetic(name, lists)
        print(name, measured[name], flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    about = (
        f"{dataset.name}, {n_items:,} items, top {K}; {datetime.date.today()}; commit {commit.strip() or 'unknown'}; "
        f"{hardware(args.threads)}; load before the start {load:.1f}. `answering.py` says how it is done."
    )
    with replacing(args.output) as part:
        part.write_text(describe(measured, about, floor), encoding="utf-8")


if __name__ == "__main__":
    main()
