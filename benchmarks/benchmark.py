"""Compare our speed with public libraries: `make benchmark` (about 50 minutes on 2 idle cores).

    python benchmarks/benchmark.py [--only NARM] [--again]

A contest compares one of our models with its peers. Each contestant runs in its own process (worker_ours.py,
worker_recbole.py in the environment of the peers, worker_report.py), with the same user split, width 128, batch size
256 and number of threads. The contestants train one epoch in turn, so that other load on the machine affects all of
them. Ours trains the epochs of its recipe; a peer trains until three epochs have not improved validation MRR@20. Each
is then tested with the weights of its best epoch, and scores all held-out queries (top 20). Contests in speed.json
are not run again.

Output: speed.json (all measurements), speed.md (the table), speed.png.
"""

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from floor import floor_of, measure_rates  # noqa: E402

import plots  # noqa: E402
from dataset.files import replacing  # noqa: E402
from process_data import TrainDataset, load_dataset, prepare  # noqa: E402
from sessionrec.losses import pick_precision  # noqa: E402

# Validation MRR@20 that each peer is known to reach. A run below this value minus TOLERANCE is marked as invalid.
KNOWN = {"GRU4Rec": 0.093, "NARM": 0.097, "SRGNN": 0.096, "SASRec": 0.105}
TOLERANCE = 0.008
PATIENCE, MOST_EPOCHS = 3, 20

OURS, PEERS_PYTHON = sys.executable, HERE / ".venv" / "bin" / "python"
CONTESTS = {
    "GRU4REC": {
        "ours": ["worker_ours.py", "--model", "GRU4REC"],
        "RecBole": ["worker_recbole.py", "--model", "GRU4Rec", "--width", "128"],
        "the report's way": ["worker_report.py", "--model", "GRU4REC"],
        "ours, fast": ["worker_ours.py", "--model", "SASRec", "--recipe", "fast"],
    },
    "NARM": {
        "ours": ["worker_ours.py", "--model", "NARM"],
        "RecBole": ["worker_recbole.py", "--model", "NARM", "--width", "128"],
    },
    "SRGNN": {
        "ours": ["worker_ours.py", "--model", "SRGNN"],
        "RecBole": ["worker_recbole.py", "--model", "SRGNN", "--width", "128"],
    },
    "SASRec": {
        "ours": ["worker_ours.py", "--model", "SASRec"],
        "RecBole": ["worker_recbole.py", "--model", "SASRec", "--width", "128"],
        "ours, fast": ["worker_ours.py", "--model", "SASRec", "--recipe", "fast"],
    },
}


class Worker:
    """The process of one contestant, which answers each command with a line of JSON."""

    def __init__(self, name: str, script: str, *options: str, log: Path):
        self.name, self.is_ours = name, script == "worker_ours.py"
        python = PEERS_PYTHON if script == "worker_recbole.py" else OURS
        self.model = options[options.index("--model") + 1]
        self.log = open(log, "w")
        self.process = subprocess.Popen(
            [str(python), str(HERE / script), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.about = self.answer()
        self.epochs: list[dict] = []
        self.most_epochs = self.about["settings"]["fit"]["epochs"] if self.is_ours else MOST_EPOCHS

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"benchmark.py: {self.name} ended early; see {self.log.name}")
        return json.loads(line)

    def ask(self, command: str) -> dict:
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.answer()

    @property
    def best(self) -> dict:
        return max(self.epochs, key=lambda row: row["MRR@20"])

    @property
    def is_done(self) -> bool:
        if len(self.epochs) >= self.most_epochs:
            return True
        stale = bool(self.epochs) and self.epochs[-1]["epoch"] - self.best["epoch"] >= PATIENCE
        return stale and not self.is_ours

    def train_epoch(self) -> None:
        row = self.ask("epoch")
        valid = self.ask("valid")
        self.epochs.append({**row, "MRR@20": valid["MRR@20"], "valid_seconds": valid["seconds"]})
        if self.best is self.epochs[-1]:
            self.ask("keep")

    def finish(self) -> dict:
        result = {
            "model": self.model,
            "about": self.about,
            "epochs": self.epochs,
            "test": self.ask("test"),
            # Before scoring, because its memory depends on the batch size (4,096 queries in RecBole).
            "peak_mib": self.ask("memory")["peak_mib"],
            "scoring": [self.ask("score") for _ in range(3)],
        }
        self.process.stdin.close()
        self.process.wait()
        return result


def run_contest(name: str, dataset: str, threads: int, folder: Path) -> dict:
    """Train the contestants of one contest in turn until all are done."""
    common = ["--dataset", dataset, "--threads", str(threads)]
    workers = []
    for contestant, (script, *options) in CONTESTS[name].items():
        log = folder / f"{name}_{contestant.replace(' ', '_')}.log"
        workers.append(Worker(contestant, script, *options, *common, log=log))
    with tqdm(desc=name, unit=" epochs") as bar:
        while running := [worker for worker in workers if not worker.is_done]:
            for worker in running:
                worker.train_epoch()
                bar.set_postfix_str(f"{worker.name} {worker.epochs[-1]['MRR@20']:.4f}")
                bar.update()
    data = prepare(load_dataset(dataset), split="user", split_seed=0)
    steps = len(TrainDataset(data.train, weights="once").x)
    batches = -(-workers[0].about["examples"] // 256)
    shape = {"items": data.n_items, "width": 128}
    torch.set_num_threads(threads)
    rates = measure_rates(steps=round(steps / batches), **shape)
    floor = floor_of(rates, steps=steps, batches=batches, parameters=workers[0].about["parameters"], **shape)
    return {
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(threads),
        "dataset": dataset,
        "rates": rates,
        "floor": floor,
        "contestants": {worker.name: worker.finish() for worker in workers},
    }


def hardware(threads: int) -> str:
    """CPU, threads and torch version, to show with the measurements."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    cpu = names[0].split(":")[1].strip() if names else platform.processor()
    bf16 = ", bfloat16" if pick_precision("auto", torch.device("cpu")) == torch.bfloat16 else ""
    return f"{cpu}{bf16}, {threads} threads, torch {torch.__version__.split('+')[0]}"


# --------------------------------------------------------------------------------------------------
# The table


def seconds_until(epochs: list[dict], target: float) -> float | None:
    """Seconds of training and validation until validation MRR@20 first reaches `target`, or None."""
    passed = 0.0
    for row in epochs:
        passed += row["seconds"] + row["valid_seconds"]
        if row["MRR@20"] >= target:
            return passed
    return None


def queries_per_second(contestant: dict) -> float:
    return max(run["queries"] / run["seconds"] for run in contestant["scoring"])


def epoch_seconds(contestant: dict) -> float:
    return statistics.median(row["seconds"] for row in contestant["epochs"])


def summarize_contest(contest: dict) -> list[dict]:
    """One row per contestant. fair: whether a peer reaches the quality that it is known for."""
    rows = []
    for name, contestant in contest["contestants"].items():
        best = max(row["MRR@20"] for row in contestant["epochs"])
        rows.append(
            {
                "who": name,
                "model": contestant["model"],
                "epoch": epoch_seconds(contestant),
                "best": best,
                "best_seconds": seconds_until(contestant["epochs"], best),
                "queries": queries_per_second(contestant),
                "peak_mib": contestant["peak_mib"],
                "test": contestant["test"]["MRR@20"],
                "fair": best >= KNOWN[contestant["model"]] - TOLERANCE if name == "RecBole" else True,
            }
        )
    return rows


def table_row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def write_table(contests: dict, path: Path) -> None:
    """Write speed.md: the measurements of all contestants, then ours relative to each peer and to the floor."""
    one = next(iter(contests.values()))
    where = {}
    for name, contest in contests.items():
        where.setdefault(f"{contest['date']}; {contest['hardware']}", []).append(name)
    where = [f"{', '.join(names)}: {text}." if len(where) > 1 else f"{text}." for text, names in where.items()]
    measured = ["contest", "who", "s an epoch", "best validation MRR@20", "s until then"]
    measured += ["queries/s", "peak MiB", "test MRR@20"]
    ratios = ["ours", "against", "epoch", "until the peer's best validation MRR@20", "queries/s", "peak memory"]
    above, below = [], []
    for name, contest in contests.items():
        rows = {row["who"]: row for row in summarize_contest(contest)}
        for who, row in rows.items():
            best = f"{row['best']:.4f}"
            if not row["fair"]:
                best += f" (invalid: known to reach {KNOWN[row['model']]})"
            cells = [f"{row['epoch']:.2f}", best, f"{row['best_seconds']:.0f}", f"{row['queries']:,.0f}"]
            cells += [f"{row['peak_mib']:.0f}", f"{row['test']:.4f}"]
            above.append(table_row(name, f"{who} ({row['model']})", *cells))
        for who, ours in rows.items():
            if not who.startswith("ours"):
                continue
            name = f"{who} ({ours['model']})"
            for peer in (row for row in rows.values() if not row["who"].startswith("ours")):
                until = seconds_until(contest["contestants"][who]["epochs"], peer["best"])
                sooner = f"{peer['best_seconds'] / until:.1f} x ({until:.0f} s)" if until else "not reached"
                cells = [f"{peer['epoch'] / ours['epoch']:.1f} x", sooner]
                cells += [f"{ours['queries'] / peer['queries']:.1f} x"]
                cells += [f"{ours['peak_mib'] / peer['peak_mib']:.2f} of it"]
                below.append(table_row(name, f"{peer['who']} ({peer['model']})", *cells))
            if who == "ours":
                floor = contest["floor"]
                epoch = f"{ours['epoch'] / floor['epoch']:.2f} times it ({floor['epoch']:.2f} s)"
                queries = f"a {floor['queries'] / ours['queries']:.2f}th of it ({floor['queries']:,.0f})"
                below.append(table_row(name, "the floor", epoch, "", queries, ""))
    rates = " and ".join(f"{one['rates'][name] / 1e9:.0f} Gflop/s in {name}" for name in ("fp32", "bf16"))
    lines = [
        "# Speed, measured side by side",
        "",
        f"{one['dataset']}, user split (seed 0), width 128, batch 256, seed 0. {' '.join(where)}",
        "",
        table_row(*measured),
        "|" + "---|" * len(measured),
        *above,
        "",
        "Ours against each (times as fast, times as many; memory as a share):",
        "",
        table_row(*ratios),
        "|" + "---|" * len(ratios),
        *below,
        "",
        f"Measured for the floor: {rates}, {one['rates']['bytes'] / 1e9:.0f} GB/s of memory; see README.md.",
        "",
    ]
    path.write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="Amazon_Beauty")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=list(CONTESTS), help="run one contest only")
    parser.add_argument("--again", action="store_true", help="also run contests that are in speed.json")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of speed.json, .md and .png")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "speed.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    if others := {contest["dataset"] for contest in stored.values()} - {args.dataset}:
        parser.error(f"{path} contains measurements on {', '.join(others)}; name another folder with --output")
    here, contests = hardware(args.threads), stored
    with tempfile.TemporaryDirectory() as folder:
        for name in [args.only] if args.only else CONTESTS:
            if name in contests and contests[name]["hardware"] == here and not args.again:
                continue
            contests[name] = run_contest(name, args.dataset, args.threads, Path(folder))
            contests = {name: contests[name] for name in CONTESTS if name in contests}
            with replacing(path) as part:
                part.write_text(json.dumps(contests) + "\n")
    write_table(contests, args.output / "speed.md")
    curves = {
        name: {who: one["epochs"] for who, one in contest["contestants"].items()} for name, contest in contests.items()
    }
    plots.plot_speed(curves).savefig(args.output / "speed.png", dpi=120, bbox_inches="tight")
    print((args.output / "speed.md").read_text())


if __name__ == "__main__":
    main()
