"""What a notebook needs of data: load, split and encode sessions, then batches and session graphs.

    dataset = load_dataset("Amazon_Beauty")      # raw ids, as the files have them
    data = prepare(dataset)                      # split by user and encoded: data.train, data.valid, data.test
    loader = get_dataloader(TrainDataset(data.train), 256)
    for x, y, w in loader: ...

Shapes:  R rows (sessions), B batch, L longest session of the batch, P prefixes.
Ids:     raw ids are the file's; encoded ids are 1..n in the order of the sorted raw ids. 0 is padding and, as
         a target, "an item that the model does not know".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data._utils.collate import default_collate_fn_map

from dataset.files import read_sessions
from dataset.find import load_dataset, load_datasets
from dataset.folders import SessionDataset
from dataset.options import Count, Seed, Size, check, checked
from dataset.prepare import Prepared, Queries, prepare
from dataset.sessions import (
    LONGEST_SESSION,
    PADDING,
    DataError,
    Sessions,
    Vocabulary,
    check_columns,
    check_encoded,
    maximal_sessions,
)
from dataset.split import split_sessions

__all__ = [
    "LONGEST_SESSION", "PADDING", "REPORT_PRESET", "Batch", "DataError", "MyDataset", "Prepared", "Queries",
    "SessionDataset", "Sessions", "Slice", "TrainDataset", "Vocabulary", "expand_prefixes", "get_dataloader",
    "get_slice", "load_dataset", "load_datasets", "maximal_sessions", "prepare", "read_sessions", "split_sessions",
]  # fmt: skip

# The report's data: no effective item filter, sessions of two items or more, vocabulary from all rows.
REPORT_PRESET = {"min_item_count": 1, "min_session_length": 2, "fit_on": "all"}


# --------------------------------------------------------------------------------------------------
# Datasets and dataloader


class Batch(NamedTuple):
    """x (B, L) items; y (B, L) the next item of each step, 0 where there is none; w (B, L) the step's weight.

    One row of a dataset has the same fields, each (L,).
    """

    x: Tensor
    y: Tensor
    w: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


def _pad(rows: Sequence[Batch], *, collate_fn_map=None) -> Batch:
    """Rows of fields (L,) -> Batch, zeros to the right of the shorter ones."""
    return Batch(*(pad_sequence(list(field), batch_first=True) for field in zip(*rows, strict=True)))


default_collate_fn_map[Batch] = _pad  # so that a plain `DataLoader(dataset, batch_size=32)` pads, too


class StepDataset(Dataset):
    """Base of `TrainDataset` and `MyDataset`: flat x, y, w and where each row lies in them.

    dataset[3] is one row, a `Batch` of fields (L,); dataset[[3, 8]] or dataset[tensor] a padded `Batch`.
    A session of more than LONGEST_SESSION steps becomes several rows, cut from its end; rows without any
    weight are left out.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, w: np.ndarray, offsets: np.ndarray, n_items: int):
        pieces = -(-np.diff(offsets) // LONGEST_SESSION)
        session = np.repeat(np.arange(len(pieces)), pieces)
        pieces_after = np.cumsum(pieces)[session] - 1 - np.arange(len(session))
        ends = offsets[1:][session] - LONGEST_SESSION * pieces_after
        starts = np.maximum(offsets[:-1][session], ends - LONGEST_SESSION)
        weights = np.r_[0, np.cumsum(w)]
        used = weights[ends] > weights[starts]
        self.n_items, self.sha256 = n_items, ""  # the hash of the data's files, for resume files
        self.x, self.y = (torch.as_tensor(a, dtype=torch.long) for a in (x, y))
        self.w = torch.as_tensor(w, dtype=torch.float)
        self.starts, self.lengths = (torch.as_tensor(a[used]) for a in (starts, ends - starts))
        self.total_weight = float(self.w.double().sum())

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: int | Sequence[int] | Tensor) -> Batch:
        if isinstance(rows, (int, np.integer)):
            row = range(len(self))[rows]
            steps = slice(self.starts[row], self.starts[row] + self.lengths[row])
            return Batch(self.x[steps], self.y[steps], self.w[steps])
        rows = torch.as_tensor(rows)
        lengths = self.lengths[rows]
        steps = torch.arange(int(lengths.max()))
        inside = steps < lengths[:, None]
        index = torch.where(inside, self.starts[rows][:, None] + steps, 0)
        return Batch(*(flat[index] * inside for flat in (self.x, self.y, self.w)))


class TrainDataset(StepDataset):
    """Shifted sequences: session [1, 2, 3, 4] with label 5 -> x = [1, 2, 3, 4], y = [2, 3, 4, 5].

    sessions: encoded training rows with labels and users, as `prepare` returns them; raw ones are refused.
    fold=True merges the prefix rows of a user into one maximal session: the same steps, each computed
    once instead of up to L times. weights="rows": a step counts as often as the rows repeat it, so the
    epoch's loss and gradient are exactly those of the unfolded rows (for a causal model); "once": each
    step counts once. fold=False keeps the rows, and every step weighs 1.

    >>> rows = Sessions.from_lists([[1], [1, 2]], labels=[2, 3], users=[0, 0], n_items=3)
    >>> TrainDataset(rows)[0]
    Batch(x=tensor([1, 2]), y=tensor([2, 3]), w=tensor([2., 1.]))
    """

    def __init__(self, sessions: Sessions, *, fold: bool = True, weights: Literal["rows", "once"] = "rows"):
        check_encoded(sessions, "TrainDataset")
        check("fold", fold, bool)
        check("weights", weights, Literal["rows", "once"])
        check_columns(sessions, "labels")
        if not fold and weights == "once":
            raise ValueError("weights='once' needs fold=True: unfolded rows repeat their steps")
        if fold:
            sequences, w = maximal_sessions(sessions)
            w = w if weights == "rows" else np.ones_like(w)
        else:
            sequences, w = sessions.with_labels_appended(), np.ones(len(sessions.items))
        # The last item of a sequence is only a target, its first only an input.
        x = np.delete(sequences.items, sequences.offsets[1:] - 1)
        y = np.delete(sequences.items, sequences.offsets[:-1])
        super().__init__(x, y, w, sequences.offsets - np.arange(len(sequences) + 1), sessions.n_items)


class MyDataset(StepDataset):
    """Single labels: session [1, 2, 3, 4] with label 5 -> x = [1, 2, 3, 4], target 5 at the last step.

    sessions: encoded rows with labels, as `prepare` returns them; raw ones are refused.

    >>> rows = Sessions.from_lists([[1], [1, 2]], labels=[2, 3], n_items=3)
    >>> MyDataset(rows)[1]
    Batch(x=tensor([1, 2]), y=tensor([0, 3]), w=tensor([0., 1.]))
    """

    def __init__(self, sessions: Sessions):
        check_encoded(sessions, "MyDataset")
        check_columns(sessions, "labels")
        y = np.zeros_like(sessions.items)
        some = sessions.lengths > 0  # encoding may have left a held-out session empty
        y[sessions.offsets[1:][some] - 1] = sessions.labels[some]
        super().__init__(sessions.items, y, y > 0, sessions.offsets, sessions.n_items)


class LengthBucketSampler(Sampler):
    """Batches of rows of similar length: shuffle, sort by length (stable), cut, shuffle the batches.

    The batches differ in size by at most one row and have at most `batch_size`. Epoch e of a seed is always
    the same order; set `epoch` to choose it. rank, world_size: of every batch, take every world_size-th row
    from the rank-th on.
    """

    def __init__(
        self,
        lengths: Tensor,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.lengths, self.batch_size, self.shuffle = lengths, batch_size, shuffle
        self.seed, self.epoch, self.rank, self.world_size = seed, 0, rank, world_size

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        rows = torch.arange(len(self.lengths))
        order = range(len(self))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            self.epoch += 1
            rows = torch.randperm(len(rows), generator=generator)
            rows = rows[self.lengths[rows].argsort(stable=True)]
            order = torch.randperm(len(self), generator=generator).tolist()
        batches = rows.tensor_split(max(1, len(self)))
        for b in order:
            yield batches[b][self.rank :: self.world_size]


@checked
def get_dataloader(
    dataset: StepDataset,
    batch_size: Size = 256,
    *,
    shuffle: bool = True,
    seed: Seed = 0,
    num_workers: Count = 0,
    rank: Count = 0,
    world_size: Size = 1,
) -> DataLoader:
    """Batches of a `TrainDataset` or `MyDataset`: length-bucketed, padded, reshuffled every epoch.

    Yields `Batch(x, y, w)`, each (B, L). Every row comes exactly once an epoch; `loader.sampler.epoch` says
    which order comes next. rank, world_size: the share of one of several processes.
    Raises ValueError for another kind of dataset, a batch size below 1, or batches smaller than world_size.

    >>> rows = Sessions.from_lists([[1], [4, 2], [3]], labels=[2, 3, 1], users=[0, 1, 2], n_items=4)
    >>> x, y, w = next(iter(get_dataloader(TrainDataset(rows), 3, shuffle=False)))
    >>> x
    tensor([[1, 0],
            [4, 2],
            [3, 0]])
    """
    if not isinstance(dataset, StepDataset):
        raise ValueError(
            f"get_dataloader takes a TrainDataset or MyDataset, not {type(dataset).__name__}: "
            "get_dataloader(TrainDataset(data.train), 256)"
        )
    options = {"shuffle": shuffle, "seed": seed, "rank": rank, "world_size": world_size}
    sampler = LengthBucketSampler(dataset.lengths, batch_size, **options)
    if world_size > 1 and len(dataset) // len(sampler) < world_size:
        raise ValueError(
            f"{len(dataset)} rows in batches of {batch_size} are too few for {world_size} processes; start fewer"
        )
    # batch_size=None: the sampler yields whole batches of indices, and the dataset gathers and pads them.
    return DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=num_workers)


# --------------------------------------------------------------------------------------------------
# Session graphs


class Slice(NamedTuple):
    """alias_inputs (B, L), A (B, L, 2L) = [A_in | A_out], items (B, L), mask (B, L) bool."""

    alias_inputs: Tensor
    A: Tensor
    items: Tensor
    mask: Tensor


def get_slice(x: Tensor) -> Slice:
    """Session graphs of a zero-padded batch of encoded ids x (B, L), for SR-GNN (Wu 2019, section 3.2).

    items: the row's sorted unique ids, including the padding's 0 if the row is padded, zeros at the end.
    alias_inputs: the index in `items` of each entry of x. An edge u -> v (v follows u) counts once;
    A_in[v, u] = 1 / in-degree(v), A_out[u, v] = 1 / out-degree(u); no edge touches the padding.
    Raises ValueError if x is not a matrix of integers.

    >>> get_slice(torch.tensor([[464, 1150, 0]])).alias_inputs
    tensor([[1, 2, 0]])
    """
    _check_batch(x, "get_slice")
    B, L = x.shape
    mask = x > PADDING
    ordered, order = x.sort(dim=1)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    node = first.cumsum(1) - 1  # (B, L) index among the unique ids, in sorted order
    items = torch.zeros_like(x).scatter_(1, node, ordered)
    alias_inputs = torch.empty_like(x).scatter_(1, order, node)
    # Edges go to cell u * L + v; those that touch the padding to a spare cell.
    edge = alias_inputs[:, :-1] * L + alias_inputs[:, 1:]
    edge = torch.where(mask[:, 1:] & mask[:, :-1], edge, L * L)
    adjacency = torch.zeros(B, L * L + 1, device=x.device).scatter_(1, edge, 1.0)
    adjacency = adjacency[:, :-1].view(B, L, L)
    A_in = adjacency.transpose(1, 2)
    A_in = A_in / A_in.sum(2, keepdim=True).clamp(min=1)
    A_out = adjacency / adjacency.sum(2, keepdim=True).clamp(min=1)
    return Slice(alias_inputs, torch.cat([A_in, A_out], 2), items, mask)


def _check_batch(x: Tensor, taker: str) -> None:
    if not isinstance(x, Tensor):
        raise ValueError(f"{taker} takes a batch of encoded ids (B, L), torch.tensor([[1, 2]]), not {type(x).__name__}")
    if x.dim() != 2 or x.is_floating_point():
        raise ValueError(f"{taker} takes a batch of encoded ids (B, L), not {tuple(x.shape)} {x.dtype}")


def expand_prefixes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Every prefix of a zero-padded batch x (B, L) as a row: (P, L), and the mask (B, L) they came from.

    Row p belongs to the p-th True of the mask, in row-major order, so `out[mask] = states` puts them back.
    """
    _check_batch(x, "expand_prefixes")
    mask = x > PADDING
    L = x.shape[1]
    lower = torch.ones(L, L, dtype=torch.bool, device=x.device).tril()  # row t keeps items 0..t
    return (x[:, None, :] * lower)[mask], mask
