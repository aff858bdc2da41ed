"""Measure a training step shared by several processes: seconds with and without gradient exchange, and bytes sent.

    torchrun --nproc-per-node 2 benchmarks/distributed_steps.py

GRU4REC on synthetic sessions (scaling.py), batch size 256 over all processes, gloo on the loopback interface, one
thread per process. With the full softmax, the gradient of the whole item embedding is sent; with sampled negatives and
sparse gradients, only the rows that the step used. Prints a table.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from benchmark import table_row  # noqa: E402
from scaling import WIDTH, make_rows  # noqa: E402

from models import build_model  # noqa: E402
from process_data import TrainDataset, get_dataloader  # noqa: E402
from sessionrec.device import seed_everything  # noqa: E402
from sessionrec.fit import Objective  # noqa: E402
from sessionrec.losses import SampledSoftmax, full_softmax  # noqa: E402

STEPS = 12
CASES = [(10_000, 0), (30_000, 0), (100_000, 0), (10_000, 2048), (100_000, 2048), (1_000_000, 2048)]


def measure(items: int, negatives: int) -> tuple[float, float, float]:
    """Median seconds of a step without and with exchange, and the MiB of gradients that a process sends."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    seed_everything(0)
    rows = make_rows(20_000, items)
    model = build_model("GRU4REC", n_items=items, width=WIDTH, score="cosine")
    model.embedding.sparse = negatives > 0
    popularity = np.bincount(np.r_[rows.items, rows.labels], minlength=items + 1)
    objective = Objective(model, SampledSoftmax(popularity, negatives) if negatives else full_softmax)
    together = DistributedDataParallel(objective)
    loader = get_dataloader(TrainDataset(rows, weights="once"), rank=rank, world_size=world_size)
    seconds = {"alone": [], "together": []}
    for step, batch in zip(range(2 * STEPS), loader, strict=False):
        model.zero_grad(set_to_none=True)
        dist.barrier()
        started = time.perf_counter()
        if step % 2:
            together(batch).backward()
        else:
            objective(batch).backward()
        seconds["together" if step % 2 else "alone"].append(time.perf_counter() - started)
        if not step % 2:
            gradients = [p.grad for p in model.parameters()]
            sent = sum(g._nnz() * (g.shape[1] * 4 + 8) if g.is_sparse else g.numel() * 4 for g in gradients)
    return *(statistics.median(values[2:]) for values in seconds.values()), sent / 2**20


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    header = ["items", "loss", "step alone, ms", "with the exchange, ms", "exchange", "gradients, MiB"]
    if dist.get_rank() == 0:
        print(table_row(*header), "|" + "---|" * len(header), sep="\n")
    for items, negatives in CASES:
        alone, together, sent = measure(items, negatives)
        cells = [f"{items:,}", f"{negatives:,} negatives" if negatives else "full softmax"]
        cells += [f"{1000 * alone:.0f}", f"{1000 * together:.0f}", f"{1 - alone / together:.0%}", f"{sent:.1f}"]
        if dist.get_rank() == 0:
            print(table_row(*cells), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
