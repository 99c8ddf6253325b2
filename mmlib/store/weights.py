"""Tensors in safetensors files: weights with their metadata, and nested state. Never pickle."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors

from mmlib.store.files import RunError, to_json, write_atomic

Tensors = dict[str, torch.Tensor]  # by name, as in a `state_dict`


def flatten(state: Any) -> tuple[Tensors, Any]:
    """Split nested dicts, lists, tuples, tensors and scalars into named tensors and a JSON value.

    Made for `state_dict()`s: dict keys may be integers, tensors may share memory (each is copied to
    the CPU). Returns what `unflatten` takes. Raises RunError naming the place of any other value.
    """
    tensors: Tensors = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            tensors[path] = value.detach().to("cpu", copy=True).contiguous()
            return {"tensor": path}
        if isinstance(value, Mapping):
            if bad := [key for key in value if not isinstance(key, str | int)]:
                raise RunError(f"cannot save {path}: key {bad[0]!r} is neither text nor an integer")
            # The index keeps names apart if keys differ in type only (1, '1') or hold a separator.
            items = enumerate(value.items())
            return {"dict": [[key, walk(item, f"{path}.{i}:{key}")] for i, (key, item) in items]}
        if isinstance(value, list | tuple):
            kind = type(value).__name__
            return {kind: [walk(item, f"{path}.{i}") for i, item in enumerate(value)]}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # numpy scalars
            return value.item()
        raise RunError(f"cannot save {path}: a {type(value).__name__} is not a tensor, scalar, "
                       "list or dict")

    return tensors, walk(state, "state")


def unflatten(tensors: Tensors, structure: Any) -> Any:
    """The inverse of `flatten`."""
    if not isinstance(structure, dict):
        return structure
    ((kind, value),) = structure.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: unflatten(tensors, item) for key, item in value}
    items = [unflatten(tensors, item) for item in value]
    return tuple(items) if kind == "tuple" else items


def read_tensors(path: str | os.PathLike[str]) -> tuple[Tensors, dict[str, str]]:
    """The tensors of a safetensors file, on the CPU, and its header. Raises SafetensorError."""
    with safe_open(path, "pt") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}


def save_weights(path: str | os.PathLike[str], weights: Tensors,
                 metadata: Mapping[str, Any]) -> None:
    """Write a flat `state_dict` and JSON metadata (what rebuilds the model) as one file."""
    tensors = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in weights.items()}
    write_atomic(path, safetensors.save(tensors, {"metadata": to_json(dict(metadata))}))


def load_weights(path: str | os.PathLike[str]) -> tuple[Tensors, dict[str, Any]]:
    """Read `(state_dict, metadata)` on the CPU.

    Raises FileNotFoundError, or RunError for a damaged file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        tensors, header = read_tensors(path)
        return tensors, json.loads(header.get("metadata", "{}"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is not a whole safetensors file: {error}") from error
