"""Contestants of the benchmark: models of RecBole 1.2.1, trained by its own trainer, ranked by our metrics.

    python benchmarks/worker_recbole.py --dataset Demo --model GRU4Rec --threads 1

Runs in an environment of its own (requirements-peers.txt). The protocol is `protocol.serve`'s.

RecBole gets the training rows alone and numbers the items that it finds there in its own order. What it has
never seen cannot be scored: such items leave the query, are never recommended, and are misses as labels.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from protocol import serve
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.interaction import Interaction
from recbole.data.utils import get_dataloader
from recbole.utils import get_model, get_trainer, init_seed
from torch import Tensor

from metrics import check_finite, ranks_of_targets
from process_data import LONGEST_SESSION, PADDING, Prepared, Sessions
from scoring import popularity_scores

# The best that were found on Beauty's validation part; the rest is RecBole's default for the model.
SETTINGS = {
    "GRU4Rec": {"embedding_size": 128, "hidden_size": 128, "learning_rate": 5e-3, "dropout_prob": 0.5},
    "NARM": {"embedding_size": 128, "hidden_size": 128, "learning_rate": 5e-3},
    "SRGNN": {"embedding_size": 64, "learning_rate": 5e-3},
    "SASRec": {
        "hidden_size": 64,
        "inner_size": 256,
        "n_layers": 2,
        "learning_rate": 1e-3,
        "hidden_dropout_prob": 0.5,
        "attn_dropout_prob": 0.5,
    },
}
WIDTHS = ("embedding_size", "hidden_size")  # what --width replaces, where the model has it

COMMON = {
    "data_path": "data",
    "benchmark_filename": ["train"],  # already split
    "load_col": {"inter": ["session_id", "item_id_list", "item_id"]},
    "alias_of_item_id": ["item_id_list"],  # one numbering for queries and labels
    "USER_ID_FIELD": "session_id",
    "train_neg_sample_args": None,
    "loss_type": "CE",
    "train_batch_size": 256,
    "use_gpu": False,
    "show_progress": False,
}


class RecBolePeer:
    most_queries = None

    def __init__(self, data: Prepared, args: argparse.Namespace):
        own = SETTINGS[args.model] | {
            k: args.width for k in WIDTHS if args.width and k in SETTINGS[args.model]
        }
        self.longest = int(min(data.train.lengths.max(), LONGEST_SESSION))
        sys.argv = sys.argv[:1]  # RecBole would take `--seed=1` there for a setting of its own
        self.folder = tempfile.TemporaryDirectory(prefix="recbole-")  # goes when the worker goes
        os.chdir(self.folder.name)  # RecBole writes its logs into the current folder
        _write_interactions(data.train, Path("data/train/train.train.inter"))
        varied = own | {"MAX_ITEM_LIST_LENGTH": self.longest, "seed": args.seed}
        config = Config(model=args.model, dataset="train", config_dict=COMMON | varied)
        init_seed(args.seed, config["reproducibility"])
        (rows,) = create_dataset(config).build()
        self.loader = get_dataloader(config, "train")(config, rows, None, shuffle=True)
        self.model = get_model(args.model)(config, rows)
        self.trainer = get_trainer(config["MODEL_TYPE"], args.model)(config, self.model)
        self.batch = config["eval_batch_size"]
        self.settings = own | {"batch_size": config["train_batch_size"]}
        self.examples = len(rows)
        self.epoch = 0

        self.n_items, self.mask_seen = data.n_items, not data.repeats
        self.popularity = popularity_scores(data.popularity)
        numbers = rows.field2token_id["item_id"]
        # (n + 1,) our ids -> RecBole's, 0 where it has none.
        self.theirs = np.array([0] + [numbers.get(str(i), 0) for i in range(1, data.n_items + 1)])

    def train_epoch(self) -> dict:
        total = self.trainer._train_epoch(self.loader, self.epoch)
        self.epoch += 1
        return {"loss": total / len(self.loader)}

    @torch.no_grad()
    def score(self, sessions: Sessions, size: int) -> Iterator[tuple[slice, Tensor]]:
        """RecBole's scores of its own items, batch by batch: (rows, (B, its items))."""
        self.model.eval()
        queries = self.to_theirs(sessions)
        x, lengths = queries.padded(self.longest), queries.lengths.clip(1, self.longest)
        for start in range(0, len(sessions), size):
            rows = slice(start, min(start + size, len(sessions)))
            query = {self.model.ITEM_SEQ: x[rows], self.model.ITEM_SEQ_LEN: lengths[rows]}
            query = Interaction({field: torch.as_tensor(values) for field, values in query.items()})
            yield rows, self.model.full_sort_predict(query).view(len(query), -1)

    def to_theirs(self, sessions: Sessions) -> Sessions:
        """The same sessions in RecBole's ids, without the items that it does not know."""
        items = self.theirs[sessions.items]
        known = items != PADDING
        lengths = np.bincount(sessions.row_of_item[known], minlength=len(sessions))
        return Sessions(items[known], np.r_[0, np.cumsum(lengths)])

    def rank(self, sessions: Sessions) -> np.ndarray:
        empty = torch.as_tensor(self.to_theirs(sessions).lengths == 0)
        known = np.flatnonzero(self.theirs)
        theirs = torch.as_tensor(self.theirs[known])
        ranks = np.empty(len(sessions), np.int64)
        # Smaller batches than RecBole's: the scores are copied here, and its peak memory is to be its own.
        for rows, scores in self.score(sessions, 1024):
            check_finite(scores)
            ours = torch.full((len(scores), self.n_items + 1), -torch.inf)
            ours[:, known] = scores[:, theirs]
            del scores
            ours[empty[rows]] = self.popularity  # as for every contestant
            ours[:, PADDING] = -torch.inf
            if self.mask_seen:
                chunk = sessions.take(np.arange(rows.start, rows.stop))
                ours[chunk.row_of_item, chunk.items] = -torch.inf
            ranks[rows] = ranks_of_targets(ours, torch.as_tensor(sessions.labels[rows])).numpy()
        return ranks

    def recommend(self, sessions: Sessions) -> None:
        for _, scores in self.score(sessions, self.batch):
            scores.topk(20)
            del scores  # or two batches' scores would be in memory at once


def _write_interactions(sessions: Sessions, path: Path) -> None:
    """RecBole's file of pre-split sessions: its row number, its items, its label, tab between."""
    path.parent.mkdir(parents=True)
    lines = ["session_id:token\titem_id_list:token_seq\titem_id:token"]
    for row, (session, label) in enumerate(zip(sessions, sessions.labels.tolist(), strict=True)):
        lines.append(f"{row}\t{' '.join(map(str, session))}\t{label}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    serve(RecBolePeer, list(SETTINGS))
