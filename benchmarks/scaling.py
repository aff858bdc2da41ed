"""How time and memory grow with sessions and items: `make scaling` (about 30 minutes on 2 cores).

    python benchmarks/scaling.py [--most 1000000] [--only train]

Each task runs in its own process, so that its peak memory can be measured, on synthetic sessions (Zipf popularity, a
fixed successor for most steps, 2 to 6 items per session). The number of sessions grows with 10,000 items; the number
of items grows with 30,000 sessions (10,000 queries); one run trains on a million of both. The exponents are
least-squares slopes of log cost over log size for the larger half of the sizes. 1 means linear growth; the fixed cost
of starting a process makes it smaller.

Output: scaling.json, scaling.md, scaling.png. Sizes in scaling.json are not run again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmark import hardware, table_row  # noqa: E402
from protocol import peak_mib  # noqa: E402

import plots  # noqa: E402
from dataset.files import replacing  # noqa: E402
from dataset.logs.convert import convert  # noqa: E402
from models import build_model  # noqa: E402
from process_data import Queries, Sessions, TrainDataset, get_dataloader  # noqa: E402
from sessionrec.device import seed_everything  # noqa: E402
from sessionrec.fit import fit  # noqa: E402
from sessionrec.losses import SampledSoftmax, batch_loss, full_softmax  # noqa: E402
from sessionrec.scoring import rank_labels, top_items  # noqa: E402

SIZES = [10_000, 30_000, 100_000, 300_000, 1_000_000]
FEW_SESSIONS, FEW_ITEMS = 30_000, 10_000
QUERIES = 10_000
FULL_SOFTMAX = 30_000  # the full softmax is measured up to this number of items
NEGATIVES = 2048
WIDTH = 128


# --------------------------------------------------------------------------------------------------
# Synthetic sessions


def make_sequences(sessions: int, items: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random sessions as items (N,) 1..n and lengths (S,). 60 % of the steps go to the successor of an item."""
    generator = np.random.default_rng(seed)
    lengths = generator.choice([2, 3, 4, 5, 6], sessions, p=[0.57, 0.21, 0.11, 0.05, 0.06])
    popularity = np.cumsum(1 / (np.arange(items) + 50))
    drawn = np.searchsorted(popularity, generator.random((sessions, 6)) * popularity[-1]).clip(max=items - 1)
    successor = generator.permutation(items)
    follows = generator.random((sessions, 6)) < 0.6
    for step in range(1, 6):
        drawn[:, step] = np.where(follows[:, step], successor[drawn[:, step - 1]], drawn[:, step])
    inside = np.arange(6) < lengths[:, None]
    return drawn[inside] + 1, lengths


def make_rows(sessions: int, items: int, seed: int = 0) -> Sessions:
    """The longest prefix row of each session (which folding would keep), encoded."""
    flat, lengths = make_sequences(sessions, items, seed)
    ends = np.cumsum(lengths)
    offsets = np.r_[0, np.cumsum(lengths - 1)]
    return Sessions(np.delete(flat, ends - 1), offsets, flat[ends - 1], np.arange(sessions), items)


# --------------------------------------------------------------------------------------------------
# Tasks: each returns the seconds of its work


def run_convert(sessions: int, items: int) -> dict:
    """Convert a raw log of user,item,timestamp into session files."""
    flat, lengths = make_sequences(sessions, items)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.csv"
        user = np.repeat(np.arange(sessions), lengths)
        rows = np.stack([user, flat, np.arange(len(flat))], 1)
        with open(log, "w") as file:
            file.write("user,item,timestamp\n")
            for part in np.array_split(rows, max(1, len(rows) // 100_000)):
                file.writelines(f"{u},{i},{t}\n" for u, i, t in part.tolist())
        del flat, lengths, user, rows
        started = time.perf_counter()
        convert(log, Path(folder) / "out")
        return {"seconds": time.perf_counter() - started}


def run_train(sessions: int, items: int, *, negatives: int = 0) -> dict:
    """Train one epoch of GRU4REC."""
    queries, model, loss = _set_up(sessions, items, negatives)
    loader = get_dataloader(TrainDataset(queries, weights="once"))
    row = fit(model, loader, None, epochs=1, lr=3e-3, schedule="constant", loss=loss).rows[0]
    return {name: row[name] for name in ("seconds", "loss")}


def run_step(sessions: int, items: int, *, negatives: int = 0) -> dict:
    """One batch forwards and backwards, and the memory that it needs in addition to the data."""
    queries, model, loss = _set_up(sessions, items, negatives)
    batch = next(iter(get_dataloader(TrainDataset(queries, weights="once"))))
    before = peak_mib()
    started = time.perf_counter()
    batch_loss(model, batch, loss).backward()
    return {"seconds": time.perf_counter() - started, "step_mib": peak_mib() - before}


def run_evaluate(sessions: int, items: int) -> dict:
    """Compute the exact ranks of the labels of all sessions."""
    queries, model, _ = _set_up(sessions, items)
    started = time.perf_counter()
    rank_labels(model, queries)
    return {"seconds": time.perf_counter() - started}


def run_recommend(sessions: int, items: int) -> dict:
    """Compute the exact top 20 of all sessions."""
    queries, model, _ = _set_up(sessions, items)
    started = time.perf_counter()
    top_items(model, queries, k=20)
    return {"seconds": time.perf_counter() - started}


TASKS = {
    "convert": run_convert,
    "train": run_train,
    "train-sampled": partial(run_train, negatives=NEGATIVES),
    "step": run_step,
    "step-sampled": partial(run_step, negatives=NEGATIVES),
    "evaluate": run_evaluate,
    "recommend": run_recommend,
}


def _set_up(sessions: int, items: int, negatives: int = 0):
    """Queries, model and loss."""
    seed_everything(0)
    rows = make_rows(sessions, items)
    model = build_model("GRU4REC", n_items=items, width=WIDTH, hidden=WIDTH, score="cosine", dropout=0.5)
    popularity = np.bincount(np.r_[rows.items, rows.labels], minlength=items + 1)
    model.embedding.sparse = negatives > 0
    loss = SampledSoftmax(popularity, negatives) if negatives else full_softmax
    return Queries.of(rows, popularity, mask_seen=True), model, loss


# --------------------------------------------------------------------------------------------------
# All measurements


def plan(most: int) -> list[tuple[str, int, int]]:
    """(task, sessions, items) of every measurement."""
    sizes = [size for size in SIZES if size <= most]
    runs = []
    for task in TASKS:
        # The cost of scoring grows with sessions x items, so it has fewer sessions where the items grow.
        few = QUERIES if task in ("evaluate", "recommend") else FEW_SESSIONS
        runs += [(task, size, FEW_ITEMS) for size in sizes]
        runs += [(task, few, size) for size in sizes]
    runs += [("train-sampled", most, most)]
    # The full softmax over a million items takes minutes per step.
    full = [run for run in runs if run[0] not in ("train", "step") or run[2] <= FULL_SOFTMAX]
    return list(dict.fromkeys(full))


def slope(sizes: list[float], costs: list[float]) -> float:
    """The exponent of cost over size, fitted to the larger half of the sizes."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(np.maximum(costs[half:], 1e-3)), 1)[0])


def curves_of(results: dict[str, dict], cost: str, along: str, most: int) -> dict[str, tuple]:
    """task -> (sizes, costs, exponent) along "sessions" or "items"."""
    curves = {}
    for task in TASKS:
        few = QUERIES if task in ("evaluate", "recommend") else FEW_SESSIONS
        fixed = ("items", FEW_ITEMS) if along == "sessions" else ("sessions", few)
        rows = [r for r in results.values() if r["task"] == task and r[fixed[0]] == fixed[1] and cost in r]
        rows = sorted((r for r in rows if r[along] <= most), key=lambda r: r[along])
        if len(rows) > 2:
            sizes, costs = [r[along] for r in rows], [r[cost] for r in rows]
            curves[task] = (sizes, costs, slope(sizes, costs))
    return curves


def write_report(results: dict[str, dict], most: int, output: Path) -> None:
    """Write scaling.md and scaling.png."""
    panels = {
        f"{name} against {along}": curves_of(results, cost, along, most)
        for along in ("sessions", "items")
        for cost, name in (("seconds", "seconds"), ("peak_mib", "peak MiB"))
    }
    plots.plot_scaling(panels).savefig(output / "scaling.png", dpi=110, bbox_inches="tight")
    first = next(iter(results.values()))
    dates = ", ".join(sorted({r["date"] for r in results.values()}))
    header = ["task", "sessions", "items", "seconds", "peak MiB", "of it the step, MiB"]
    sampled = f"{NEGATIVES:,} negatives with lazy updates"
    lines = [
        "# Cost against size",
        "",
        f"Synthetic sessions, GRU4REC, width {WIDTH}; full softmax, sampled: {sampled}. {dates}; {first['hardware']}.",
        "",
        table_row(*header),
        "|" + "---|" * len(header),
    ]
    for r in results.values():
        step = f"{r['step_mib']:.0f}" if "step_mib" in r else ""
        sizes = [f"{r[key]:,}" for key in ("sessions", "items")]
        lines.append(table_row(r["task"], *sizes, f"{r['seconds']:.1f}", f"{r['peak_mib']:.0f}", step))
    lines += ["", "Fitted exponents (of the larger half of the sizes):", ""]
    lines += [table_row("cost", *TASKS), "|" + "---|" * (len(TASKS) + 1)]
    for title, curves in panels.items():
        cells = [f"{curves[task][2]:.2f}" if task in curves else "" for task in TASKS]
        lines.append(table_row(title, *cells))
    (output / "scaling.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--most", type=int, default=SIZES[-1], help="the largest size")
    parser.add_argument("--only", choices=list(TASKS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("--run", nargs=3, metavar=("TASK", "SESSIONS", "ITEMS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.run:
        task, sessions, items = args.run[0], int(args.run[1]), int(args.run[2])
        measured = TASKS[task](sessions, items)
        print(json.dumps({**measured, "peak_mib": peak_mib()}))
        return
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "scaling.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for task, sessions, items in plan(args.most):
        key = f"{task} {sessions} {items}"
        if key in results or (args.only and task != args.only):
            continue
        command = [sys.executable, __file__, "--threads", str(args.threads)]
        command += ["--run", task, str(sessions), str(items)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"scaling.py: {key} ended with {done.returncode}")
        measured = json.loads(done.stdout.splitlines()[-1])
        about = {"task": task, "sessions": sessions, "items": items, "hardware": hardware(args.threads)}
        results[key] = about | {"date": datetime.date.today().isoformat()} | measured
        print(f"{key}: {measured['seconds']:.1f} s, {measured['peak_mib']:.0f} MiB", flush=True)
        with replacing(path) as part:
            part.write_text(json.dumps(results, indent=0) + "\n")
    write_report(results, args.most, args.output)
    print((args.output / "scaling.md").read_text())


if __name__ == "__main__":
    main()
