"""A recogniser as ONNX: an encoder, a decoder step and their words, for runtimes without PyTorch.

The encoder's graph gives each decoder layer's keys and values of one picture, so no step computes
them again. The step's graph serves the whole search: a group of m tokens attends to what its group
has written before, under a bias that hides what is not its own past (`mmlib.models.decoder.Cache`).
The hypotheses of a beam are such a group, and so is one whole text whose score is asked. The layers
are the recogniser's own: a graph only gives them dynamic shapes.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mmlib.models.decoder import Decoder, DecoderLayer, Memory
from mmlib.models.encoder import Encoder
from mmlib.models.layers import Conv, dot_attention
from mmlib.models.packing import Padded
from mmlib.models.recogniser import Recogniser
from mmlib.read.reader import EXPORTED, Reader

OPSET = 17
LICENCE = "CC BY-NC-SA 3.0 where trained on CROHME, as the recogniser that ships"
# Files of an export, beside EXPORTED; SMALL is what graphs in eight bits are called instead.
CONFIG = "config.json"
ENCODER, DECODER, SMALL = "encoder.onnx", "decoder.onnx", ".int8.onnx"


class FixedConv(Conv):
    """With as many channels as x has: the graph need not cut them anew for each picture."""

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        found: Tensor = self._conv_forward(x, self.weight, self.bias)
        return found


class EncoderGraph(nn.Module):
    """A picture to what the decoder attends to.

    picture (1, 1, H, W), ink 1, sides multiples of 8; to keys and values (layers, heads, cells,
    d / heads) of the h w cells and, after them, the slots.
    """

    def __init__(self, model: Recogniser):
        super().__init__()
        self.model = copy.deepcopy(model)
        convs = [each for each in self.model.modules() if isinstance(each, Conv)]
        convs[0].weight = nn.Parameter(convs[0].weight[:, :1])  # of ink alone
        for conv in convs:
            conv.__class__ = FixedConv

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        height, width = picture.shape[2:]
        # All valid: on a full rectangle nothing is packed, and no branch depends on the picture.
        valid = picture.new_ones(1, 1, height // Encoder.stride, width // Encoder.stride)
        memory = self.model.decoder.prepare(self.model.encode(picture, valid).memory)
        keys, values = zip(*memory.projected, strict=True)
        return torch.cat(keys), torch.cat(values)


class Past:
    """What a step's tokens attend to; stands where the decoder's layers expect a `Cache`."""

    def __init__(self, keys: Tensor, values: Tensor, bias: Tensor):
        self.past, self.bias = (keys, values), bias
        self.present: list[tuple[Tensor, Tensor]] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v (g, heads, m, d / heads) to the same shape."""
        k, v = (torch.cat([past[layer], new], 2) for past, new in zip(self.past, (k, v)))
        self.present.append((k, v))
        return dot_attention(q, k, v, self.bias[:, None])


class DecoderGraph(nn.Module):
    """A step of g groups of m tokens.

    Takes tokens (g, m) int; place (m,) float, the index of each in its text; keys and values of the
    picture, as `EncoderGraph` gives them; past_keys and past_values (layers, g, heads, p,
    d / heads); bias (g, m, p + m), 0 where a token attends to the past or its group, else very low.
    Gives logits (g, m, v); present_keys and present_values, the past with the new tokens; and the
    guided head's attention (g, m, cells).
    """

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Tensor, place: Tensor, keys: Tensor, values: Tensor,
                past_keys: Tensor, past_values: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        decoder, config = self.decoder, self.decoder.config
        angle = place[:, None] * decoder.rate
        position = torch.cat([angle.sin(), angle.cos()], -1)
        x = decoder.embed(tokens) * math.sqrt(config.d) * 0.25 + position
        past = Past(past_keys, past_values, bias)
        memory = Memory(x, x, x.new_zeros(1, 1, 1, 1))
        memory.projected = [(keys[i : i + 1], values[i : i + 1]) for i in range(config.layers)]
        attention, pack = x, Padded(tokens.shape)
        for index, layer in enumerate(decoder.layers):
            guided = index == config.guided
            x, weights = cast(DecoderLayer, layer)(x, memory, index, past, guided, pack)
            attention = attention if weights is None else weights
        present = [torch.stack(each) for each in zip(*past.present)]
        return decoder.logits(decoder.norm(x)), *present, attention


def export(reader: Reader, folder: str | Path, small: bool = True) -> dict[str, int]:
    """Write a recogniser into a folder.

    `model.safetensors` and `config.json` (with the vocabulary), which `Reader.load` takes too; and
    the two graphs, with `small` in eight bits too. Returns the size in bytes of each file. Raises
    ImportError where the extra `export` is not installed.
    """
    import onnx  # noqa: F401  # of our extra `export`: PyTorch would name another package

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = reader.model.cpu().eval()
    save_file(_shortest(model.state_dict()), folder / EXPORTED, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(_card(reader), indent=1) + "\n", "utf-8")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of branches that a full rectangle never takes
        _export_encoder(model, folder / ENCODER)
        _export_decoder(model, folder / DECODER)
    if small:
        for name in (ENCODER, DECODER):
            quantise(folder / name, folder / name.replace(".onnx", SMALL))
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}


def _shortest(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in half precision if that loses nothing: those that ship were kept so."""
    halves = {name: value.half().contiguous() for name, value in weights.items()}
    same = all(torch.equal(halves[name].to(value.dtype), value) for name, value in weights.items())
    return halves if same else {name: value.contiguous() for name, value in weights.items()}


def _card(reader: Reader) -> dict[str, Any]:
    """What a reader needs beside the weights, and what a person should know of them."""
    parts = {"model": asdict(reader.model.config), "view": asdict(reader.view)}
    return {"model_type": "mmlib-recogniser", "licence": LICENCE, "run": reader.run,
            "pictures": reader.pictures, "minutes": reader.minutes,
            "config": dict(reader.config) | parts, "vocabulary": list(reader.vocabulary.tokens),
            "confidence": asdict(reader.calibration) if reader.calibration else {}}


def _export_encoder(model: Recogniser, path: Path) -> None:
    _export(EncoderGraph(model), (torch.rand(1, 1, 40, 72),), path,
            {"picture": {2: "height", 3: "width"}},
            {"keys": {2: "cells"}, "values": {2: "cells"}})


def _export_decoder(model: Recogniser, path: Path) -> None:
    config = model.config.decoder
    e = config.d // config.heads
    memory = torch.rand(config.layers, config.heads, 23, e)
    past = torch.rand(config.layers, 2, config.heads, 6, e)
    tokens, place, bias = torch.ones(2, 3).long(), torch.full((3,), 2.0), torch.zeros(2, 3, 9)
    before, after = {1: "groups", 3: "past"}, {1: "groups", 3: "all"}
    _export(DecoderGraph(model.decoder), (tokens, place, memory, memory, past, past, bias), path,
            {"tokens": {0: "groups", 1: "new"}, "place": {0: "new"}, "keys": {2: "cells"},
             "values": {2: "cells"}, "past_keys": before, "past_values": before,
             "bias": {0: "groups", 1: "new", 2: "all"}},
            {"logits": {0: "groups", 1: "new"}, "present_keys": after, "present_values": after,
             "attention": {0: "groups", 1: "new", 2: "cells"}})


def _export(graph: nn.Module, inputs: tuple[Tensor, ...], path: Path,
            given: dict[str, dict[int, str]], found: dict[str, dict[int, str]]) -> None:
    """Trace a graph; `given` and `found` name the dynamic axes of its inputs and outputs.

    By the tracer, since `torch.export` would fix whether the cells' number is odd.
    """
    torch.onnx.export(graph, inputs, str(path), dynamo=False, opset_version=OPSET,
                      input_names=list(given), output_names=list(found), dynamic_axes=given | found)


def quantise(graph: Path, out: Path) -> None:
    """Write a graph in eight bits.

    Matrix products are dynamic: both sides are integers while they are multiplied. Of convolutions,
    which runtimes compute slower in integers, and of embeddings the kept weights alone are.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # advice on shapes, which these graphs do not need
    try:
        quantize_dynamic(graph, out, per_channel=True, weight_type=QuantType.QInt8,
                         op_types_to_quantize=["MatMul", "Gemm"],
                         extra_options={"MatMulConstBOnly": True})
    finally:
        logging.disable(logging.NOTSET)
    model = onnx.load(out)
    weights = {each.name: each for each in model.graph.initializer}
    places = {"Conv": (1, 0), "ConvTranspose": (1, 1), "Gather": (0, 0)}  # input, axis of scales
    for node in [node for node in model.graph.node if node.op_type in places]:
        place, axis = places[node.op_type]
        weight = weights.get(node.input[place])
        if weight is None or weight.data_type != onnx.TensorProto.FLOAT:
            continue
        if len(weight.dims) > 1:
            _shrink(model.graph, weights.pop(weight.name), axis)
    onnx.save(model, out)


def _shrink(graph: Any, weight: Any, axis: int) -> None:
    """Keep a weight as integers, a scale for each index of `axis`, made float when it is loaded."""
    from onnx import helper, numpy_helper

    array, name = numpy_helper.to_array(weight), weight.name
    others = tuple(i for i in range(array.ndim) if i != axis)
    scale = np.maximum(np.abs(array).max(others) / 127, 1e-12).astype(np.float32)
    whole = np.rint(array / np.expand_dims(scale, others)).astype(np.int8)
    graph.initializer.remove(weight)
    parts = {f"{name}.whole": whole, f"{name}.scale": scale,
             f"{name}.zero": np.zeros(len(scale), np.int8)}
    graph.initializer.extend(numpy_helper.from_array(part, key) for key, part in parts.items())
    graph.node.insert(0, helper.make_node("DequantizeLinear", list(parts), [name], axis=axis))
