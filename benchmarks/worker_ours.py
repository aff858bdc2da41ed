"""This project as a contestant of benchmark.py: trains an epoch, validates, scores, when it is told to.

Reads a command a line and answers each with a line of JSON; see benchmark.py. Everything goes through
`train.fit` and `scoring`, as it would for any user: an epoch is `fit` resumed for one more.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from metrics import summarize  # noqa: E402
from models import build_model  # noqa: E402
from process_data import Sessions, load_dataset, prepare  # noqa: E402
from scoring import rank_labels, top_items  # noqa: E402
from train import fit, load_recipe, make_train_dataset, seed_everything  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--recipe", default="best")
    parser.add_argument("--split-seed", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    dataset = load_dataset(args.dataset)
    data = prepare(dataset, split="user", split_seed=args.split_seed)
    recipe = load_recipe(args.recipe, args.model, dataset.short_name)
    rows = make_train_dataset(data.train, **recipe["data"])
    seed_everything(args.seed)
    model = build_model(args.model, n_items=data.n_items, **recipe["model"])
    scoring = {"popularity": data.popularity, "mask_seen": not data.repeats}
    queries = join(data.valid, data.test)
    epoch, kept = 0, None

    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state.safetensors"

        def train_epoch() -> dict:
            nonlocal epoch
            epoch += 1
            options = {"stop_after": epoch, "state": state, "resume": True, "progress": False}
            table = fit(model, rows, None, seed=args.seed, **scoring, **options, **recipe["fit"])
            row = table.iloc[-1]
            return {"epoch": epoch, "loss": row["loss"], "seconds": row["seconds"]}

        def measure(part: Sessions) -> dict:
            started = time.perf_counter()
            metrics = summarize(rank_labels(model, part, **scoring))
            return metrics | {"seconds": time.perf_counter() - started}

        def keep() -> dict:
            nonlocal kept
            kept = {key: value.clone() for key, value in model.state_dict().items()}
            return {}

        def test() -> dict:
            model.load_state_dict(kept)
            return measure(data.test)

        def score() -> dict:
            started = time.perf_counter()
            top_items(model, queries, k=20, **scoring)
            return {"queries": len(queries), "seconds": time.perf_counter() - started}

        commands = {
            "epoch": train_epoch,
            "valid": lambda: measure(data.valid),
            "keep": keep,
            "test": test,
            "score": score,
        }
        ready = {
            "ready": True,
            "settings": recipe,
            "examples": len(rows),
            "parameters": sum(p.numel() for p in model.parameters()),
            "steps": int((rows.w > 0).sum()),
            "items": data.n_items,
            "width": model.width,
        }
        print(json.dumps(ready), flush=True)
        for line in sys.stdin:
            if line.strip() == "quit":
                print(json.dumps({"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
                return
            print(json.dumps(commands[line.strip()]()), flush=True)


def join(*parts: Sessions) -> Sessions:
    """The sessions of several parts, one after the other."""
    return Sessions.from_lists([part[row] for part in parts for row in range(len(part))])


if __name__ == "__main__":
    main()
