"""One training run over several processes, as torchrun starts them: who am I, and adding up.

Alone (no torchrun) there is one process of rank 0, and nothing here does anything.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor


def start(device: str | None) -> str | None:
    """Join the processes that torchrun started; return this one's device (each has a GPU of its own)."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
        return device
    on_gpu = torch.cuda.is_available() and device in (None, "cuda")
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    # What is on the CPU is added up there: models that only count never leave it.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    return device if on_gpu else device or "cpu"


def stop() -> None:
    """Leave the group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End a program with its exit code; what it wrote must be closed by now.

    Gloo's threads outlive their group once DistributedDataParallel held it, and one that still lets go of a
    tensor while Python shuts down aborts the process: torchrun then calls a run failed that is done and saved
    (https://github.com/pytorch/pytorch/issues/190489). One of several processes ends without that shutdown.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def rank() -> int:
    """0..processes - 1; 0 is the one that writes and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def add_up(values: Tensor) -> Tensor:
    """The sum of every process's tensor, in place; all must call it."""
    if processes() > 1:
        dist.all_reduce(values)
    return values
