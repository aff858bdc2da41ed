"""A contestant of the benchmark: GRU4REC the report's way, plainly written; and the protocol of all workers.

    python benchmarks/worker_report.py --dataset Demo --model GRU4REC --threads 1

A worker is a process of its own, so that contestants can take turns on the same cores and each be asked
for its own peak memory. It reads commands from stdin, a line each, and answers each with a line of JSON.

The report's way: the prefix rows as they are (not folded), a Python collate function that pads row by row,
a plain shuffled DataLoader, scores for every padded step, evaluation one session at a time with a full sort.

Shapes: B batch, L longest session of the batch, D width, n items (ids 1..n, 0 pads).
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
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from metrics import summarize
from process_data import PADDING, Prepared, Sessions, load_dataset, prepare
from scoring import popularity_scores

# --------------------------------------------------------------------------------------------------
# The protocol


class Contestant(Protocol):
    """What a worker brings. `most_queries` bounds the `score` command (None: all queries)."""

    model: nn.Module
    settings: dict
    examples: int
    most_queries: int | None

    def train_epoch(self) -> float:
        """Train one epoch; the mean loss."""

    def rank(self, sessions: Sessions) -> np.ndarray:
        """(Q,) rank of each session's label among all items; beyond 20 where it is unknown."""

    def recommend(self, sessions: Sessions) -> None:
        """Score all items and take the 20 best of each session: what a timing needs, so nothing is kept."""


def serve(make: Callable[[Prepared, argparse.Namespace], Contestant], models: list[str]) -> None:
    """Build a contestant as the command line says and answer commands until `quit` or the end of stdin.

    epoch: train one; valid: rank the validation part; keep: remember the weights; test: load the kept ones
    and rank the test part; score: time the top 20 of held-out sessions; quit: say the peak memory.
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
                loss = contestant.train_epoch()
                seconds = time.perf_counter() - started
                if not math.isfinite(loss):
                    raise ValueError(f"the loss is {loss} in epoch {epoch}")
                reply(epoch=epoch, loss=loss, seconds=seconds)
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
            case "quit":
                reply(peak_mib=_peak_mib())
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
    return parser.parse_args()


def _held_out(data: Prepared, at_most: int | None) -> Sessions:
    """Test and validation sessions, or that many of them, evenly spaced."""
    sessions = Sessions.from_lists([*data.test, *data.valid])
    if at_most is None or len(sessions) <= at_most:
        return sessions
    return sessions.take(np.linspace(0, len(sessions) - 1, at_most).astype(int))


def _peak_mib() -> float:
    """Largest resident memory of this process so far; Linux counts KiB, macOS bytes."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


# --------------------------------------------------------------------------------------------------
# The report's way


class ShiftedRows(Dataset):
    """Every row as lists: session [1, 2, 3, 4] with label 5 -> x = [1, 2, 3, 4], y = [2, 3, 4, 5]."""

    def __init__(self, sessions: Sessions):
        self.sequences = list(sessions.with_labels_appended())

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, row: int) -> tuple[list[int], list[int]]:
        return self.sequences[row][:-1], self.sequences[row][1:]


def collate(rows: list[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    """Rows -> x (B, L), y (B, L), zeros to the right."""
    longest = max(len(x) for x, _ in rows)
    xs, ys = [], []
    for x, y in rows:
        padding = [PADDING] * (longest - len(x))
        xs.append(torch.tensor(x + padding))
        ys.append(torch.tensor(y + padding))
    return torch.stack(xs), torch.stack(ys)


class GRU4REC(nn.Module):
    """Embedding -> dropout -> one GRU layer -> linear back -> dot product with the embedding (tied)."""

    def __init__(self, n_items: int, width: int, dropout: float):
        super().__init__()
        self.embedding = nn.Embedding(n_items + 1, width, padding_idx=PADDING)
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.linear = nn.Linear(width, width)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.gru(self.dropout(self.embedding(x)))  # (B, L, D)
        return self.linear(h) @ self.embedding.weight.T  # (B, L, n + 1)


class ReportGRU4REC:
    """The report's batch and width. Its rate of .01 without dropout pays only under its leaking split."""

    most_queries = 300  # one by one, so that it ends

    def __init__(self, data: Prepared, args: argparse.Namespace):
        torch.manual_seed(args.seed)
        self.settings = {"width": args.width or 128, "batch_size": 256, "lr": 5e-3, "dropout": 0.5}
        self.mask_seen = not data.repeats
        self.popularity = popularity_scores(torch.as_tensor(data.popularity))
        rows = ShiftedRows(data.train)
        self.examples = len(rows)
        batch_size = self.settings["batch_size"]
        self.loader = DataLoader(rows, batch_size=batch_size, shuffle=True, collate_fn=collate)
        self.model = GRU4REC(data.n_items, self.settings["width"], self.settings["dropout"])
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.settings["lr"])

    def train_epoch(self) -> float:
        self.model.train()
        total = 0.0
        for x, y in self.loader:
            scores = self.model(x)
            loss = F.cross_entropy(scores.flatten(0, 1), y.flatten(), ignore_index=PADDING)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return total / len(self.loader)

    @torch.no_grad()
    def sort_items(self, session: list[int]) -> Tensor:
        """All ids (n + 1,), best first; what must not be recommended comes last."""
        # A held-out session of unknown items alone is empty: popularity, as for every contestant.
        scores = self.model(torch.tensor([session]))[0, -1] if session else self.popularity.clone()
        scores[PADDING] = -torch.inf
        if self.mask_seen:
            scores[session] = -torch.inf
        return scores.argsort(descending=True)

    def rank(self, sessions: Sessions) -> np.ndarray:
        self.model.eval()
        ranks = []
        for session, label in zip(sessions, sessions.labels.tolist(), strict=True):
            order = self.sort_items(session)
            # An unknown label is the padding's 0, which is sorted behind every item that may be recommended.
            ranks.append((order == label).nonzero().item() + 1)
        return np.array(ranks)

    def recommend(self, sessions: Sessions) -> None:
        self.model.eval()
        for session in sessions:
            self.sort_items(session)[:20].tolist()


if __name__ == "__main__":
    serve(ReportGRU4REC, ["GRU4REC"])
