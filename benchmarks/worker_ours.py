"""A contestant of the benchmark: a model of this project, trained by a recipe.

    python benchmarks/worker_ours.py --dataset Demo --model GRU4REC --threads 1

It uses the public functions: an epoch is a call of `fit` that resumes training for one more epoch, and its seconds
are those in the history.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from protocol import serve

from dataset.folders import short_name
from models import MODELS, build_model
from process_data import Prepared, Queries
from sessionrec.device import seed_everything
from sessionrec.recipes import load_recipe
from sessionrec.run import fit_by_recipe, make_train_dataset
from sessionrec.scoring import rank_labels, top_items


class Ours:
    most_queries = None

    def __init__(self, data: Prepared, args: argparse.Namespace):
        recipe = load_recipe(args.recipe, args.model, short_name(Path(args.dataset).resolve().name))
        self.recipe = recipe.with_changes({"model": {"width": args.width}}) if args.width else recipe
        self.settings, self.seed = self.recipe.values, args.seed
        self.data = replace(data, valid=data.valid.take(np.zeros(0, int)))  # `fit` must not validate
        self.examples = len(make_train_dataset(data.train, self.recipe))
        seed_everything(args.seed)
        self.model = build_model(args.model, n_items=data.n_items, **self.recipe.model)
        self.folder = tempfile.TemporaryDirectory(prefix="ours-")  # removed when the process ends
        self.epoch = 0

    def train_epoch(self) -> dict:
        self.epoch += 1
        resume_file = Path(self.folder.name) / "state.safetensors"
        options = {"seed": self.seed, "stop_after": self.epoch, "resume_file": resume_file}
        history = fit_by_recipe(self.model, self.data, self.recipe, **options)
        return {name: history.rows[-1][name] for name in ("loss", "seconds")}

    def rank(self, queries: Queries) -> np.ndarray:
        return rank_labels(self.model, queries)

    def recommend(self, queries: Queries) -> None:
        top_items(self.model, queries, k=20)


if __name__ == "__main__":
    serve(Ours, list(MODELS))
