"""Checkpoints: one `.safetensors` file that rebuilds a model.

It holds tensors and a JSON header and no code: loading one executes nothing. It is written to a temporary
file beside the target and then renamed, so a reader never meets half a file.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dataset.files import replacing
from models import MODELS, Model, build_model
from process_data import Prepared, Vocabulary

FORMAT = 2  # 1 if no embedding is stored in 8 bits


class CheckpointError(ValueError):
    """A file that cannot be used as a checkpoint; the message names it and says why."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model, its vocabulary, the popularity of its items in training (n + 1,), and a header.

    header: `model` (class name), `arguments`, `dataset`, `sha256` (of the data), `split`, `split_seed`, `shares`,
    `mask_seen`, `metrics` (split -> metric -> value), and what the caller adds, such as `recipe` and `seed`.
    """

    model: Model
    vocabulary: Vocabulary
    popularity: np.ndarray
    header: dict


def write_tensors(path: str | Path, tensors: dict[str, Tensor], header: dict) -> None:
    """Write tensors and a JSON header to `path`, atomically. On OSError the old file stays."""
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


def make_checkpoint(
    model: Model, data: Prepared, *, metrics: dict[str, dict[str, float]] | None = None, info: dict | None = None
) -> Checkpoint:
    """The checkpoint of a model trained on `data`, in memory.

    metrics: split -> metric -> value, e.g. {"test": summarize(ranks)}. info: more entries for the header.
    """
    header = {
        "model": model.name,
        "arguments": model.arguments,
        "dataset": data.name,
        "sha256": data.sha256,
        "split": data.split,
        "split_seed": data.split_seed,
        "shares": list(data.shares),
        "mask_seen": data.mask_seen,
        "metrics": metrics or {},
    }
    return Checkpoint(model, data.vocabulary, data.popularity, header | (info or {}))


def save_checkpoint(
    path: str | Path,
    model: Model,
    data: Prepared,
    *,
    metrics: dict[str, dict[str, float]] | None = None,
    info: dict | None = None,
    compact: bool = False,
) -> None:
    """Save a model trained on `data` as one file; the arguments are those of `make_checkpoint`.

    compact: weights as float16 and item embeddings as int8 with one scale per row, about 4x smaller; the loaded
    model computes in float32 again. Raises OSError and leaves the old file, ValueError for what is not JSON.
    """
    write_checkpoint(path, make_checkpoint(model, data, metrics=metrics, info=info), compact=compact)


def write_checkpoint(path: str | Path, checkpoint: Checkpoint, *, compact: bool = False) -> None:
    """Write a checkpoint as one file; see `save_checkpoint`."""
    model = checkpoint.model
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    version = 1
    for key in [key for key in tensors if compact and key.endswith(_EMBEDDING)]:
        tensors[key], tensors[_SCALE + key] = _to_int8(tensors[key])
        version = FORMAT
    if compact:
        tensors = {
            key: value.half() if value.is_floating_point() and value.half().isfinite().all() else value
            for key, value in tensors.items()
        }
    tensors["item_ids"] = torch.as_tensor(checkpoint.vocabulary.item_ids)
    tensors["popularity"] = torch.as_tensor(checkpoint.popularity)
    custom = sorted({m.name for m in getattr(model, "members", [model]) if _is_custom(m)})
    header = {"format": version, **checkpoint.header} | ({"custom_classes": custom} if custom else {})
    try:
        json.dumps(header)
    except TypeError as error:
        raise ValueError(f"{path}: the header cannot be written as JSON: {error}") from None
    write_tensors(path, tensors, header)


def _is_custom(model: nn.Module) -> bool:
    """Whether a model's code differs from the class of that name in `models`, as after an edit in a notebook."""
    registered = MODELS.get(model.name)
    if registered is type(model):
        return False
    if registered is None or model.name != type(model).__name__:
        return True
    # A notebook's classes: the model's, its bases and those of its parts, each against its namesake in the file.
    own = {c for part in model.modules() for c in type(part).__mro__ if c.__module__ == type(model).__module__}
    file = inspect.getmodule(registered)
    try:
        return any(_sources(c) != _sources(getattr(file, c.__name__, None)) for c in own)
    except OSError:  # no source to compare: a plain Python console keeps none
        return True


def _sources(cls: type | None) -> dict[str, str]:
    """The source of each method of a class."""
    members = {name: getattr(member, "fget", member) for name, member in vars(cls or object).items()}
    return {name: inspect.getsource(f) for name, f in members.items() if inspect.isfunction(f)}


_EMBEDDING, _SCALE = ".embedding.weight", "scale."


def _to_int8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(n, D) -> integers of -127..127, and the scale of each row, (n, 1)."""
    scale = rows.abs().amax(1, keepdim=True) / 127
    return (rows / scale.clamp(min=torch.finfo(rows.dtype).tiny)).round().to(torch.int8), scale


def load_checkpoint(
    path: str | Path,
    device: torch.device | str = "cpu",
    *,
    model_class: Callable | Sequence[Callable] | dict[str, Callable] | None = None,
) -> Checkpoint:
    """Rebuild a model from its file, in float32, ready to score. Raises CheckpointError.

    model_class: the class of a model that is not one of `models`, or was edited in a notebook; for a
    `WrappedModule` a function of n_items that makes it. An ensemble with several such members takes a list of
    classes, or a dict of name -> class or function.
    """
    tensors, header = read_tensors(path)
    if missing := {"model", "arguments", "mask_seen"} - header.keys():
        raise CheckpointError(f"{path} does not fit this code: its header lacks {min(missing)}")
    try:
        model = build_model(header["model"], classes=_classes(path, header, model_class), **header["arguments"])
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
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} does not fit this code: {error}") from None
    if len(vocabulary) != model.n_items or len(popularity) != model.n_items + 1:
        raise CheckpointError(f"{path}: its item ids do not fit its model of {model.n_items} items")
    return Checkpoint(model.to(device).eval(), vocabulary, popularity, header)


def _classes(path: str | Path, header: dict, model_class) -> dict[str, Callable]:
    """The classes that may rebuild this checkpoint, by name."""
    given = model_class if isinstance(model_class, (list, tuple, dict)) else [model_class] if model_class else []
    if not isinstance(given, dict):
        given = {getattr(c, "__name__", repr(c)): c for c in given}
    custom = [name for name in header.get("custom_classes", []) if isinstance(name, str)]
    classes = MODELS | given
    if len(given) == len(custom) == 1:  # a function may have any name
        classes[custom[0]] = next(iter(given.values()))
    if missing := [name for name in custom if classes.get(name) in (None, MODELS.get(name))]:
        raise CheckpointError(
            f"{path} holds a {missing[0]} that was defined or changed outside of models/: "
            f"pass its class, or for a WrappedModule a function that makes it: "
            f"load_checkpoint({str(path)!r}, model_class={missing[0]})"
        )
    return classes
