"""Checkpoints: one `.safetensors` file that rebuilds a model.

It holds tensors and a JSON header and no code: loading one executes nothing. It is written to a temporary
file beside the target and then renamed, so a reader never meets half a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dataset.files import replacing
from dataset.options import check
from models import MODELS, Baseline, Model, build_model, member_arguments
from process_data import Prepared, Vocabulary
from sessionrec.custom_classes import is_custom
from sessionrec.device import pick_device
from sessionrec.item_names import NAME_TENSORS, names_from_tensors, names_to_tensors

FORMAT = 2  # 1 if no embedding is stored in 8 bits
_LONGEST_HEADER = 2**22
_MEMBER = re.compile(r"members\.[0-9]+\.")
# Keys of a header that code reads, and their types. A header may hold more.
_HEADER = {
    "model": str,
    "arguments": dict,
    "mask_seen": bool,
    "dataset": str,
    "sha256": str,
    "metrics": dict[str, dict],
    "recipe": str,
    "recipe_values": dict[str, dict],
    "recipes": dict[str, dict[str, dict]],
    "members": list[dict],
    "custom_classes": list[str],
}


class CheckpointError(ValueError):
    """A file that cannot be used as a checkpoint; the message names it and says why."""


class ClassNeededError(CheckpointError):
    """A checkpoint that is loaded only with `load_checkpoint(path, model_class=...)`; the message says which class."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model, its vocabulary (with the items' names, if the dataset has them), the popularity of its items in
    training (n + 1,), and a header.

    header: `model` (class name), `arguments`, `dataset`, `sha256` (of the data), `split`, `split_seed`, `shares`,
    `mask_seen`, `metrics` (split -> metric -> value), and what the caller adds, such as `recipe` and `seed`.
    """

    made_by: ClassVar[str] = "load_checkpoint(path)"

    model: Model
    vocabulary: Vocabulary
    popularity: np.ndarray
    header: dict


def write_tensors(path: str | Path, tensors: dict[str, Tensor], header: dict) -> None:
    """Write tensors and a JSON header to `path`, atomically. On OSError the old file stays."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    content = save(tensors, metadata={"header": json.dumps(header)})
    with replacing(path) as part:
        part.write_bytes(content)  # `save_file` would put another file in its place, which is not locked


def read_header(path: str | Path) -> dict:
    """The JSON header of a file of ours. Raises CheckpointError."""
    with _opened(path) as file:
        return _header_of(file, path)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and JSON header of a file. Raises CheckpointError."""
    with _opened(path) as file:
        header = _header_of(file, path)
        return {key: file.get_tensor(key) for key in file.keys()}, header  # noqa: SIM118


def read_names(path: str | Path) -> dict[int, str] | None:
    """Item id -> name of a checkpoint, None if it has no names. The model is not read. Raises CheckpointError."""
    with _opened(path) as file:
        keys = {"item_ids", "popularity", *NAME_TENSORS} & {*file.keys()}
        vocabulary, _ = _items_of({key: file.get_tensor(key) for key in keys})
    if vocabulary.names is None:
        return None
    return dict(zip(vocabulary.item_ids.tolist(), vocabulary.names, strict=True))


@contextmanager
def _opened(path: str | Path) -> Iterator:
    """A safetensors file, open for reading; whatever goes wrong with it is a CheckpointError."""
    check("path", path, str | Path)
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name a .safetensors file in it")
    if not path.exists():
        how = f"python train.py --dataset NAME --model NAME --output {path.with_suffix('.safetensors')}"
        raise CheckpointError(f"{path} does not exist; train it with `{how}`")
    if not path.is_file():
        raise CheckpointError(f"{path} is no regular file; name a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:  # also RecursionError
        raise CheckpointError(f"{path} is no checkpoint, or is cut off ({error})") from None


def _header_of(file, path: str | Path) -> dict:
    text = (file.metadata() or {}).get("header", "null")
    if len(text) > _LONGEST_HEADER:
        raise CheckpointError(f"{path} has a header of {len(text):,} characters; ours are far shorter")
    header = json.loads(text)
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has no header of ours; it is some other safetensors file")
    version = header.get("format")
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise CheckpointError(f"{path} has format {version!r}; this code reads up to {FORMAT}")
    try:
        for key in _HEADER.keys() & header.keys():
            check(key, header[key], _HEADER[key])
    except ValueError as error:
        raise CheckpointError(f"{path} does not fit this code: {error}") from None
    return header


def check_tensors(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise ValueError unless the tensors have the names, shapes and types of the expected ones."""
    if missing := expected.keys() - tensors.keys():
        raise ValueError(f"it lacks {min(missing)}")
    if unknown := tensors.keys() - expected.keys():
        raise ValueError(f"it has {min(unknown)}, which the model does not have")
    for key, want in expected.items():
        found = tensors[key]
        if found.shape != want.shape or found.dtype != want.dtype:
            sizes = f"{found.dtype} {tuple(found.shape)}, not {want.dtype} {tuple(want.shape)}"
            raise ValueError(f"{key} is {sizes}".replace("torch.", ""))


def make_checkpoint(
    model: Model, data: Prepared, *, metrics: dict[str, dict[str, float]] | None = None, info: dict | None = None
) -> Checkpoint:
    """The checkpoint of a model trained on `data`, in memory.

    metrics: split -> metric -> value, e.g. {"test": summarize(ranks)}. info: more entries for the header.
    """
    if not hasattr(model, "arguments"):
        raise ValueError(f"model: must be a model such as build_model returns, not of the type {type(model).__name__}")
    check("data", data, Prepared)
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
    check("path", path, str | Path)
    check("checkpoint", checkpoint, Checkpoint)
    check("compact", compact, bool)
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
    tensors |= names_to_tensors(checkpoint.vocabulary.names)
    custom = sorted({m.name for m in getattr(model, "members", [model]) if is_custom(m)})
    header = {"format": version, **checkpoint.header} | ({"custom_classes": custom} if custom else {})
    try:
        json.dumps(header)
    except TypeError as error:
        raise ValueError(f"{path}: the header cannot be written as JSON: {error}") from None
    write_tensors(path, tensors, header)


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
    """Rebuild a model from its file, in float32, ready to score. Raises CheckpointError, and
    TrainingError for a device that is absent.

    model_class: the class of a model that is not one of `models`, or was edited in a notebook; for a
    `WrappedModule` a function of n_items that makes it. An ensemble with several such members takes a list of
    classes, or a dict of name -> class or function.
    """
    device = pick_device(device)
    tensors, header = read_tensors(path)
    try:
        if missing := {"model", "arguments", "mask_seen"} - header.keys():
            raise ValueError(f"its header lacks {min(missing)}")
        classes = _classes(path, header, model_class)
        vocabulary, popularity = _items_of(tensors)
        if header["arguments"].get("n_items") != len(vocabulary):
            raise ValueError(f"its item ids do not fit its model of {header['arguments'].get('n_items')!r} items")
        weights = _weights_of(tensors)
        _check_sizes(header, weights, classes)
        model = build_model(header["model"], classes=classes, **header["arguments"])
        model.load_state_dict(weights)
        if model.n_items != len(vocabulary):
            raise ValueError(f"its item ids do not fit its model of {model.n_items} items")
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit this code: {' '.join(str(error).split())[:400]}") from None
    return Checkpoint(model.to(device).eval(), vocabulary, popularity, header)


def _items_of(tensors: dict[str, Tensor]) -> tuple[Vocabulary, np.ndarray]:
    """The raw item ids and names as a vocabulary, and the items' popularity in training. Raises ValueError."""
    for name in ("item_ids", "popularity"):
        tensor = tensors.get(name)
        if tensor is None or tensor.dim() != 1 or tensor.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"it lacks {name}, a list of whole numbers")
    item_ids, popularity = tensors["item_ids"].long(), tensors["popularity"]
    if not len(item_ids) or item_ids[0] < 0 or (item_ids[1:] <= item_ids[:-1]).any():
        raise ValueError("its item ids are not in ascending order, each once and none below 0")
    if len(popularity) != len(item_ids) + 1 or (popularity < 0).any():
        raise ValueError("its popularity is not one count, of 0 or more, for the padding and each item")
    return Vocabulary(item_ids.numpy(), names_from_tensors(tensors, len(item_ids))), popularity.numpy()


def _weights_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's tensors by name; stored in 8 or 16 bits, they become float32."""
    weights = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    for key, value in weights.items():
        scale = tensors.get(f"{_SCALE}model.{key}")
        if scale is not None:
            is_scaled = value.dtype == torch.int8 and value.dim() == 2 and scale.is_floating_point()
            if not is_scaled or scale.shape != (len(value), 1):
                raise ValueError(f"model.{key} is not one row of 8 bits for each of its scales")
            weights[key] = value * scale.float()
        elif value.is_floating_point():
            weights[key] = value.float()
    return weights


def _check_sizes(header: dict, weights: dict[str, Tensor], classes: dict[str, Callable]) -> None:
    """Raise ValueError unless the declared models have the stored weights, before memory is taken for any model.

    A class that the caller passed is not checked here: only building it shows what it holds.
    """
    name, arguments = header["model"], header["arguments"]
    is_ensemble = name == "Ensemble"
    parts = member_arguments(arguments) if is_ensemble else [(name, arguments)]
    if is_ensemble and (unknown := {key for key in weights if not _MEMBER.match(key)}):
        raise ValueError(f"it has {min(unknown)}, which the model does not have")
    for i, (name, arguments) in enumerate(parts):
        if classes.get(name) is not MODELS.get(name):
            continue
        prefix = f"members.{i}." if is_ensemble else ""
        stored = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        with torch.device("meta"), _WithoutValues():
            model = build_model(name, classes=classes, **arguments)
        expected = {k: v.float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
        if isinstance(model, Baseline):  # it reads its matrices' sizes from the file, and checks them itself
            expected |= {k: expected[k].new_empty(v.shape) for k, v in stored.items() if k in expected}
        check_tensors(stored, expected)


class _WithoutValues(TorchFunctionMode):
    """Leave out initial values: those of the meta device would import much of torch, which takes two seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (Tensor.normal_, Tensor.uniform_) or getattr(function, "__module__", "") == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


def _classes(path: str | Path, header: dict, model_class) -> dict[str, Callable]:
    """The classes that may rebuild this checkpoint, by name."""
    given = model_class if isinstance(model_class, (list, tuple, dict)) else [model_class] if model_class else []
    if not isinstance(given, dict):
        given = {getattr(c, "__name__", repr(c)): c for c in given}
    custom = header.get("custom_classes", [])
    classes = MODELS | given
    if len(given) == len(custom) == 1:  # a function may have any name
        classes[custom[0]] = next(iter(given.values()))
    for name in custom:
        if classes.get(name) not in (None, MODELS.get(name)):
            continue
        remedy = (
            "pass its class, or for a WrappedModule a function that makes it: "
            f"load_checkpoint({str(path)!r}, model_class={name})"
        )
        if name in given:
            remedy = (
                "you passed the unchanged class of models/; pass the one that was trained, copied from its notebook"
            )
        raise ClassNeededError(f"{path} holds a {name} that was defined or changed outside of models/: {remedy}")
    return classes
