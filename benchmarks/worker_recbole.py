"""Contestants of the benchmark: models of RecBole 1.2.1, trained by its trainer, ranked by our metrics.

    python benchmarks/worker_recbole.py --dataset Demo --model GRU4Rec --threads 1

Runs in a separate environment (requirements-peers.txt).

RecBole gets only the training rows and numbers the items in its own order. It cannot score items that are not in these
rows: they are removed from queries, are never recommended, and count as misses if they are labels.
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
from sessionrec.scoring import popularity_scores

# The best settings found on Beauty's validation split. All others are RecBole's defaults for the model.
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
WIDTHS = ("embedding_size", "hidden_size")  # settings that --width replaces if the model has them

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
        settings = SETTINGS[args.model] | {k: args.width for k in WIDTHS if args.width and k in SETTINGS[args.model]}
        self.longest = int(min(data.train.lengths.max(), LONGEST_SESSION))
        sys.argv = sys.argv[:1]  # RecBole also reads settings from the command line
        self.folder = tempfile.TemporaryDirectory(prefix="recbole-")  # removed when the process ends
        os.chdir(self.folder.name)  # RecBole writes its logs into the current folder
        _write_interactions(data.train, Path("data/train/train.train.inter"))
        options = settings | {"MAX_ITEM_LIST_LENGTH": self.longest, "seed": args.seed}
        config = Config(model=args.model, dataset="train", config_dict=COMMON | options)
        init_seed(args.seed, config["reproducibility"])
        (rows,) = create_dataset(config).build()
        self.loader = get_dataloader(config, "train")(config, rows, None, shuffle=True)
        self.model = get_model(args.model)(config, rows)
        self.trainer = get_trainer(config["MODEL_TYPE"], args.model)(config, self.model)
        self.batch = config["eval_batch_size"]
        self.settings = settings | {"batch_size": config["train_batch_size"]}
        self.examples = len(rows)
        self.epoch = 0

        self.n_items, self.mask_seen = data.n_items, not data.repeats
        self.popularity = popularity_scores(data.popularity)
        numbers = rows.field2token_id["item_id"]
        # (n + 1,) our ids -> RecBole's ids, 0 for an item that is not in the training rows.
        self.recbole_ids = np.array([0] + [numbers.get(str(i), 0) for i in range(1, data.n_items + 1)])

    def train_epoch(self) -> dict:
        total = self.trainer._train_epoch(self.loader, self.epoch)
        self.epoch += 1
        return {"loss": total / len(self.loader)}

    @torch.no_grad()
    def score(self, sessions: Sessions, size: int) -> Iterator[tuple[slice, Tensor]]:
        """RecBole's scores of its items, batch by batch: (rows, (B, number of its items))."""
        self.model.eval()
        queries = self.to_recbole(sessions)
        x, lengths = queries.padded(self.longest), queries.lengths.clip(1, self.longest)
        for start in range(0, len(sessions), size):
            rows = slice(start, min(start + size, len(sessions)))
            query = {self.model.ITEM_SEQ: x[rows], self.model.ITEM_SEQ_LEN: lengths[rows]}
            query = Interaction({field: torch.as_tensor(values) for field, values in query.items()})
            yield rows, self.model.full_sort_predict(query).view(len(query), -1)

    def to_recbole(self, sessions: Sessions) -> Sessions:
        """The same sessions with RecBole's ids, without the items that it does not know."""
        items = self.recbole_ids[sessions.items]
        known = items != PADDING
        lengths = np.bincount(sessions.row_of_item[known], minlength=len(sessions))
        return Sessions(items[known], np.r_[0, np.cumsum(lengths)])

    def rank(self, sessions: Sessions) -> np.ndarray:
        empty = torch.as_tensor(self.to_recbole(sessions).lengths == 0)
        known = np.flatnonzero(self.recbole_ids)
        columns = torch.as_tensor(self.recbole_ids[known])
        ranks = np.empty(len(sessions), np.int64)
        # Smaller batches than RecBole's, because the copy of the scores must not increase the peak memory.
        for rows, recbole_scores in self.score(sessions, 1024):
            check_finite(recbole_scores)
            scores = torch.full((len(recbole_scores), self.n_items + 1), -torch.inf)
            scores[:, known] = recbole_scores[:, columns]
            del recbole_scores
            scores[empty[rows]] = self.popularity  # as for every contestant
            scores[:, PADDING] = -torch.inf
            if self.mask_seen:
                chunk = sessions.take(np.arange(rows.start, rows.stop))
                scores[chunk.row_of_item, chunk.items] = -torch.inf
            ranks[rows] = ranks_of_targets(scores, torch.as_tensor(sessions.labels[rows])).numpy()
        return ranks

    def recommend(self, sessions: Sessions) -> None:
        for _, scores in self.score(sessions, self.batch):
            scores.topk(20)
            del scores  # so that the scores of only one batch are in memory


def _write_interactions(sessions: Sessions, path: Path) -> None:
    """Write RecBole's file of sessions, separated by tabs: row number, items, label."""
    path.parent.mkdir(parents=True)
    lines = ["session_id:token\titem_id_list:token_seq\titem_id:token"]
    for row, (session, label) in enumerate(zip(sessions, sessions.labels.tolist(), strict=True)):
        lines.append(f"{row}\t{' '.join(map(str, session))}\t{label}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    serve(RecBolePeer, list(SETTINGS))
