"""One training run over several processes, as torchrun starts them.

Without torchrun there is one process of rank 0, and every function here does nothing.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor


def start(device: str | None) -> str | None:
    """Join the processes that torchrun started; return the device of this one (each has its own GPU)."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
        return device
    on_gpu = torch.cuda.is_available() and device in (None, "cuda")
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    # CPU tensors are reduced there: baselines never leave the CPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    return device if on_gpu else device or "cpu"


def stop() -> None:
    """Leave the group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def exit(code: int) -> NoReturn:
    """End the program with an exit code; all its files must be closed by now.

    Gloo's threads outlive their group if DistributedDataParallel used it, and a thread that still frees a
    tensor while Python shuts down aborts the process. torchrun then reports a finished, saved run as failed
    (https://github.com/pytorch/pytorch/issues/190489). Under torchrun the process therefore ends without that
    shutdown.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def rank() -> int:
    """0..world_size() - 1. Rank 0 writes and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_reduce(values: Tensor) -> Tensor:
    """The sum of every process's tensor, in place; all of them must call it."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def barrier() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        dist.barrier()
