"""Checkpoints: one `.safetensors` file that rebuilds a model, and the state that resumes a run.

Both hold tensors and a JSON header and no code: loading one executes nothing. Both are written to a
temporary file beside the target, then renamed, so a reader never meets half a file.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models import Model, build_model
from process_data import Vocabulary

FORMAT = 2  # 1 where no embedding is stored in 8 bits


class CheckpointError(ValueError):
    """A file that is no usable checkpoint; the message names it and says why."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """model, its vocabulary, training popularity (n + 1,), and the header it was saved with.

    header: `model`, `arguments`, `dataset`, `sha256` (of the data), `recipe`, `seed`, `split`,
    `split_seed`, `epochs`, `mask_seen`, `metrics` (part -> metric -> value).
    """

    model: Model
    vocabulary: Vocabulary
    popularity: np.ndarray
    header: dict


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to; it takes its place if the block ends well.

    Whatever goes wrong (OSError for a full disk, a read-only folder), the old file stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)  # mkstemp's own mode would hide the file from everybody else
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_tensors(path: str | Path, tensors: dict[str, Tensor], header: dict) -> None:
    """Write tensors and a JSON header to `path`, atomically. Raises OSError and leaves what was there."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with replacing(path) as part:
        try:
            save_file(tensors, part, metadata={"header": json.dumps(header)})
        except SafetensorError as error:  # how the library reports a full disk
            raise OSError(f"{path} cannot be written: {error}") from None


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and JSON header of a file. Raises CheckpointError."""
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name a .safetensors file in it")
    if not path.exists():
        how = f"python train.py --dataset NAME --model NAME --output {path.with_suffix('.safetensors')}"
        raise CheckpointError(f"{path} does not exist; train it with `{how}`")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("header", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is no checkpoint, or is cut off ({error})") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has no header of ours; it is some other safetensors file")
    version = header.get("format")
    if not isinstance(version, int) or version > FORMAT:
        raise CheckpointError(f"{path} has format {version!r}; this code reads up to {FORMAT}")
    return tensors, header


def save_checkpoint(
    path: str | Path,
    model: Model,
    vocabulary: Vocabulary,
    popularity: np.ndarray,
    header: dict,
    *,
    half: bool = False,
    compact: bool = False,
) -> None:
    """Save a model as one file; it computes in float32 again, however it was stored.

    half: weights as float16; counts that float16 cannot hold stay as they are. compact: and item embeddings
    in 8 bits, an item's largest weight being 127; a quarter of the full size.
    """
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    version = 1
    for key in [key for key in tensors if compact and key.endswith(_EMBEDDING)]:
        tensors[key], tensors[_SCALE + key] = _in_eight_bits(tensors[key])
        version = FORMAT
    if half or compact:
        tensors = {
            key: value.half() if value.is_floating_point() and value.half().isfinite().all() else value
            for key, value in tensors.items()
        }
    tensors["item_ids"] = torch.as_tensor(vocabulary.item_ids)
    tensors["popularity"] = torch.as_tensor(popularity)
    header = {"format": version, "model": model.name, "arguments": model.arguments, **header}
    write_tensors(path, tensors, header)


_EMBEDDING, _SCALE = ".embedding.weight", "scale."


def _in_eight_bits(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(n, D) -> whole numbers of -127..127 and what one of them is worth in each row, (n, 1)."""
    scale = rows.abs().amax(1, keepdim=True) / 127
    return (rows / scale.clamp(min=torch.finfo(rows.dtype).tiny)).round().to(torch.int8), scale


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Rebuild a model from its file, in float32, ready to score. Raises CheckpointError."""
    tensors, header = read_tensors(path)
    if missing := {"model", "arguments", "mask_seen"} - header.keys():
        raise CheckpointError(f"{path} does not fit this code: its header lacks {min(missing)}")
    try:
        model = build_model(header["model"], **header["arguments"])
        weights = {
            key.removeprefix("model."): value.float() if value.is_floating_point() else value
            for key, value in tensors.items()
            if key.startswith("model.")
        }
        for key in weights:
            if (scale := tensors.get(f"{_SCALE}model.{key}")) is not None:
                weights[key] = weights[key] * scale.float()
        model.load_state_dict(weights)
        vocabulary = Vocabulary(tensors["item_ids"].numpy())
        popularity = tensors["popularity"].numpy()
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit this code: {error}") from None
    if len(vocabulary) != model.n_items or len(popularity) != model.n_items + 1:
        raise CheckpointError(f"{path}: its item ids do not fit its model of {model.n_items} items")
    return Checkpoint(model.to(device).eval(), vocabulary, popularity, header)
