"""A contestant of the benchmark: a plain implementation of GRU4REC as in the report.

    python benchmarks/worker_report.py --dataset Demo --model GRU4REC --threads 1

As in the report, prefix rows are not folded, batches contain sessions of similar length, a collate function in Python
pads row by row, all padded steps are scored, and evaluation sorts all items for one session at a time.

Shapes: B batch, L longest session of the batch, D width, n items (ids 1..n, 0 is padding).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from protocol import serve
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from process_data import PADDING, Prepared, Sessions
from sessionrec.scoring import popularity_scores


class ShiftedRows(Dataset):
    """Each row as two lists: session [1, 2, 3, 4] with label 5 -> x = [1, 2, 3, 4], y = [2, 3, 4, 5]."""

    def __init__(self, sessions: Sessions):
        self.sequences = list(sessions.with_labels_appended())

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, row: int) -> tuple[list[int], list[int]]:
        return self.sequences[row][:-1], self.sequences[row][1:]


class SimilarLengths:
    """Batches of rows of similar length, in a new order every epoch."""

    def __init__(self, rows: ShiftedRows, batch_size: int):
        order = sorted(range(len(rows)), key=lambda row: len(rows.sequences[row]))
        self.batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in torch.randperm(len(self.batches)).tolist():
            yield self.batches[batch]


def collate(rows: list[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    """Rows -> x (B, L), y (B, L), with zeros to the right."""
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
    """Width and batch size are those of the report. Its learning rate .01 without dropout is good only with a split
    that leaks, so others are used here."""

    most_queries = 300  # they are scored one at a time, which is slow

    def __init__(self, data: Prepared, args: argparse.Namespace):
        torch.manual_seed(args.seed)
        self.settings = {"width": args.width or 128, "batch_size": 256, "lr": 5e-3, "dropout": 0.5}
        self.mask_seen = not data.repeats
        self.popularity = popularity_scores(data.popularity)
        rows = ShiftedRows(data.train)
        self.examples = len(rows)
        batch_size = self.settings["batch_size"]
        self.loader = DataLoader(rows, batch_sampler=SimilarLengths(rows, batch_size), collate_fn=collate)
        self.model = GRU4REC(data.n_items, self.settings["width"], self.settings["dropout"])
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.settings["lr"])

    def train_epoch(self) -> dict:
        self.model.train()
        total = 0.0
        for x, y in self.loader:
            scores = self.model(x)
            loss = F.cross_entropy(scores.flatten(0, 1), y.flatten(), ignore_index=PADDING)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return {"loss": total / len(self.loader)}

    @torch.no_grad()
    def sort_items(self, session: list[int]) -> Tensor:
        """All ids (n + 1,), best first. Ids that must not be recommended come last."""
        # A held-out session is empty if all its items are unknown: rank by popularity, as for every contestant.
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
            # An unknown label is 0, the padding, which comes after all items that may be recommended.
            ranks.append((order == label).nonzero().item() + 1)
        return np.array(ranks)

    def recommend(self, sessions: Sessions) -> None:
        self.model.eval()
        for session in sessions:
            self.sort_items(session)[:20].tolist()


if __name__ == "__main__":
    serve(ReportGRU4REC, ["GRU4REC"])
