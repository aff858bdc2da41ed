"""What every contestant of the benchmark speaks: commands on stdin, a line each, answered by lines of JSON.

A worker is a process of its own, so that contestants can take turns on the same cores and each be asked
for its own peak memory.
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
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from metrics import summarize
from process_data import Prepared, Sessions, load_dataset, prepare


class Contestant(Protocol):
    """What a worker brings. `most_queries` bounds the `score` command (None: all queries)."""

    model: nn.Module
    settings: dict
    examples: int
    most_queries: int | None

    def train_epoch(self) -> dict:
        """Train one epoch; its mean `loss`, and `seconds` where not all of the call was training."""

    def rank(self, sessions: Sessions) -> np.ndarray:
        """(Q,) rank of each session's label among all items; beyond 20 where it is unknown."""

    def recommend(self, sessions: Sessions) -> None:
        """Score all items and take the 20 best of each session: what a timing needs, so nothing is kept."""


def serve(make: Callable[[Prepared, argparse.Namespace], Contestant], models: list[str]) -> None:
    """Build a contestant as the command line says and answer commands until `quit` or the end of stdin.

    epoch: train one; valid: rank the validation part; keep: remember the weights; test: load the kept ones
    and rank the test part; memory: the peak so far; score: time the top 20 of held-out sessions; quit.
    """
    # Libraries print as they like: the replies get the real stdout, everything else goes to stderr.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    args = _parse_arguments(models)
    torch.set_num_threads(args.threads)
    data = prepare(load_dataset(args.dataset), split="user", split_seed=args.split_seed)
    contestant = make(data, args)
    kept, epoch = None, 0

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
                kept = copy.deepcopy(contestant.model.state_dict())
                reply(kept=epoch)
            case "test":
                if kept is not None:
                    contestant.model.load_state_dict(kept)
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


def _held_out(data: Prepared, at_most: int | None) -> Sessions:
    """Test and validation sessions, or that many of them, evenly spaced."""
    sessions = Sessions.from_lists([*data.test, *data.valid])
    if at_most is None or len(sessions) <= at_most:
        return sessions
    return sessions.take(np.linspace(0, len(sessions) - 1, at_most).astype(int))


def peak_mib() -> float:
    """Largest resident memory of this process so far; Linux counts KiB, macOS bytes."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
