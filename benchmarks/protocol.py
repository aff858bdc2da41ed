"""The protocol of the benchmark's contestants: one command per line on stdin, answered by one line of JSON.

Each contestant is a separate process. They can therefore use the same cores in turn, and report their peak memory.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from metrics import summarize
from process_data import Prepared, Queries, load_dataset, prepare


class Contestant(Protocol):
    """The interface of a contestant. `most_queries` limits the queries of the `score` command (None: all)."""

    model: nn.Module
    settings: dict
    examples: int
    most_queries: int | None

    def train_epoch(self) -> dict:
        """Train one epoch. Returns the mean `loss`, and `seconds` if the call did more than training."""

    def rank(self, sessions: Queries) -> np.ndarray:
        """(Q,) rank of each session's label among all items; more than 20 for an unknown label."""

    def recommend(self, sessions: Queries) -> None:
        """Score all items and compute the top 20 of each session, for timing. Returns nothing."""


def serve(make: Callable[[Prepared, argparse.Namespace], Contestant], models: list[str]) -> None:
    """Build a contestant from the command line and answer commands until `quit` or the end of stdin.

    epoch: train one epoch; valid: rank the validation split; keep: store the weights; test: load the stored weights
    and rank the test split; memory: peak memory; score: time the top 20 of held-out sessions; quit.
    """
    # Libraries may print to stdout: redirect it to stderr, and write the answers to the original stdout.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    args = _parse_arguments(models)
    torch.set_num_threads(args.threads)
    data = prepare(load_dataset(args.dataset), split="user", split_seed=args.split_seed)
    contestant = make(data, args)
    stored_weights, epoch = None, 0

    def reply(**answer) -> None:
        print(json.dumps(answer), file=replies)

    parameters = sum(p.numel() for p in contestant.model.parameters())
    reply(ready=True, settings=contestant.settings, examples=contestant.examples, parameters=parameters)
    for line in sys.stdin:
        started = time.perf_counter()
        match line.strip():
            case "epoch":
                epoch += 1
                trained = contestant.train_epoch()
                seconds = time.perf_counter() - started
                if not math.isfinite(trained["loss"]):
                    raise ValueError(f"the loss is {trained['loss']} in epoch {epoch}")
                reply(**{"epoch": epoch, "seconds": seconds} | trained)
            case "valid":
                summary = summarize(contestant.rank(data.valid))
                seconds = time.perf_counter() - started
                reply(**{name: summary[name] for name in ("MRR@20", "HR@20")}, seconds=seconds)
            case "keep":
                stored_weights = copy.deepcopy(contestant.model.state_dict())
                reply(kept=epoch)
            case "test":
                if stored_weights is not None:
                    contestant.model.load_state_dict(stored_weights)
                reply(**summarize(contestant.rank(data.test)))
            case "score":
                sessions = _held_out(data, contestant.most_queries)
                started = time.perf_counter()
                contestant.recommend(sessions)
                reply(queries=len(sessions), seconds=time.perf_counter() - started)
            case "memory":
                reply(peak_mib=peak_mib())
            case "quit":
                return
            case command:
                raise ValueError(f"no command {command!r}")


def _parse_arguments(models: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", required=True, help="folder, or a name such as Amazon_Beauty or Demo")
    parser.add_argument("--model", required=True, choices=models)
    parser.add_argument("--split-seed", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0, help="of weights, dropout, batches")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--width", type=int, help="of the embedding, instead of the contestant's own")
    parser.add_argument("--recipe", default="best", help="of recipes.toml, for ours")
    return parser.parse_args()


def _held_out(data: Prepared, at_most: int | None) -> Queries:
    """Test and validation sessions, or `at_most` of them, evenly spaced."""
    test, valid = data.test, data.valid
    offsets = np.r_[test.offsets, test.offsets[-1] + valid.offsets[1:]]
    sessions = replace(test, items=np.r_[test.items, valid.items], offsets=offsets, labels=None, users=None)
    if at_most is None or len(sessions) <= at_most:
        return sessions
    return sessions.take(np.linspace(0, len(sessions) - 1, at_most).astype(int))


def peak_mib() -> float:
    """Largest resident memory of this process so far. Linux reports KiB, macOS bytes."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
