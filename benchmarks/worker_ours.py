"""A contestant of the benchmark: a model of this project, by a recipe.

    python benchmarks/worker_ours.py --dataset Demo --model GRU4REC --threads 1

Everything goes through `train.fit` and `scoring`, as it would for any user: an epoch is `fit` resumed for
one more, and takes the seconds that its table says.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from protocol import serve

from models import MODELS, build_model
from process_data import Prepared, Sessions, short_name
from scoring import rank_labels, top_items
from train import fit, load_recipe, make_graph, make_train_dataset, seed_everything


class Ours:
    most_queries = None

    def __init__(self, data: Prepared, args: argparse.Namespace):
        self.recipe = load_recipe(args.recipe, args.model, short_name(Path(args.dataset).resolve().name))
        if args.width:
            self.recipe["model"]["width"] = args.width
        self.settings, self.seed = self.recipe, args.seed
        self.rows = make_train_dataset(data.train, **self.recipe["data"])
        self.graph = make_graph(data, self.recipe["fit"])
        self.examples = len(self.rows)
        seed_everything(args.seed)
        self.model = build_model(args.model, n_items=data.n_items, **self.recipe["model"])
        self.scoring = {"popularity": data.popularity, "mask_seen": not data.repeats}
        self.folder = tempfile.TemporaryDirectory(prefix="ours-")  # goes when the worker goes
        self.epoch = 0

    def train_epoch(self) -> dict:
        self.epoch += 1
        table = fit(
            self.model,
            self.rows,
            None,
            graph=self.graph,
            seed=self.seed,
            state=Path(self.folder.name) / "state.safetensors",
            resume=True,
            stop_after=self.epoch,
            progress=False,
            **self.scoring,
            **self.recipe["fit"],
        )
        return {name: float(table[name].iloc[-1]) for name in ("loss", "seconds")}

    def rank(self, sessions: Sessions) -> np.ndarray:
        return rank_labels(self.model, sessions, **self.scoring)

    def recommend(self, sessions: Sessions) -> None:
        top_items(self.model, sessions, k=20, **self.scoring)


if __name__ == "__main__":
    serve(Ours, list(MODELS))
