"""Reading with ONNX Runtime: an exported recogniser behind the same `Reader`, the same search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlib.models.decoder import Cache, DecoderConfig, Memory
from mmlib.read.export import DECODER, ENCODER, SMALL
from mmlib.read.reader import EXPORTED, Reader

LOW = -1e9  # the bias where a token does not attend; finite, since eight bits have no infinity


class OnnxDecoder:
    """The exported step, called as `mmlib.models.search` calls a `Decoder`, for one picture."""

    def __init__(self, session: Any, config: DecoderConfig):
        self.session = session
        shape = config.layers, 1, config.heads, 0, config.d // config.heads
        self.nothing = np.zeros(shape, np.float32)

    def prepare(self, memory: Memory) -> Memory:
        """The encoder's graph has projected it already."""
        return memory

    def __call__(self, tokens: Tensor, memory: Memory, cache: Cache | None = None
                 ) -> tuple[Tensor, Tensor]:
        """tokens (rows, t): whole prefixes, or with a cache the one new token of each row.

        Returns logits (rows, t, v) and the guided head's attention (rows, t, cells).
        """
        rows, t = tokens.shape
        if cache is None:
            causal = np.triu(np.full((t, t), LOW, np.float32), 1)
            bias, past = np.broadcast_to(causal, (rows, t, t)), [self.nothing.repeat(rows, 1)] * 2
            found = self._run(tokens, np.arange(t), memory, past, bias)
            return torch.from_numpy(found[0]), torch.from_numpy(found[3])
        cache.begin(rows, tokens.device)
        groups, place = rows // cache.beam, np.full(cache.beam, cache.t - 1)
        past = [self.nothing.repeat(groups, 1)] * 2
        if cache.layers:
            past = [torch.stack(each).numpy() for each in zip(*cache.layers.values(), strict=True)]
        bias, grouped = cache.bias.clamp(min=LOW).numpy(), tokens.view(groups, cache.beam)
        step = [torch.from_numpy(x) for x in self._run(grouped, place, memory, past, bias)]
        cache.layers = dict(enumerate(zip(step[1], step[2], strict=True)))
        return step[0].view(rows, 1, -1), step[3].view(rows, 1, -1)

    def _run(self, tokens: Tensor, place: np.ndarray, memory: Memory, past: list[np.ndarray],
             bias: np.ndarray) -> list[np.ndarray]:
        keys, values = memory.projected[0]
        given = {"tokens": tokens.numpy(), "place": place.astype(np.float32),
                 "keys": keys[0].numpy(), "values": values[0].numpy(),
                 "past_keys": past[0], "past_values": past[1], "bias": bias}
        found: list[np.ndarray] = self.session.run(None, given)
        return found


class OnnxRecogniser:
    """The two graphs of an export, with as much of `Recogniser` as a `Reader` uses."""

    def __init__(self, folder: Path, small: bool, config: DecoderConfig):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        paths = [folder / (name.replace(".onnx", SMALL) if small else name)
                 for name in (ENCODER, DECODER)]
        self.path = paths[0]
        self.encoder, step = (onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]) for path in paths)
        self.decoder = OnnxDecoder(step, config)
        self.scalars = {"gamma": torch.zeros(())}  # its device is where a reader runs

    def encode(self, picture: Tensor, valid: Tensor) -> SimpleNamespace:
        """picture (1, 1, H, W); valid must be all 1."""
        found = self.encoder.run(None, {"picture": picture.numpy()})
        # All layers at once, behind the axis of pictures that `Memory.select` chooses from.
        keys, values = (torch.from_numpy(each)[None] for each in found)
        memory = Memory(keys.new_zeros(1, 1), keys.new_zeros(1, 1), keys.new_zeros(1, 1))
        memory.projected = [(keys, values)]
        return SimpleNamespace(memory=memory)


def onnx_reader(folder: str | Path, small: bool = False) -> Reader:
    """A reader over what `mmlib export` wrote into a folder, on one thread; `small`: in eight bits.

    Raises FileNotFoundError or RunError, naming the file, and ImportError without ONNX Runtime.
    """
    reader = Reader.load(Path(folder) / EXPORTED)
    try:
        model: Any = OnnxRecogniser(Path(folder), small, reader.model.config.decoder)
    except ImportError as error:
        raise ImportError("this reader needs the extra: pip install '.[export]'") from error
    # The graphs are of a single picture.
    return replace(reader, model=model, path=model.path, most=1)
