"""The recogniser: encoder, attention network, decoder.

Features are modulated by the saliency, F (1 + gamma a) with gamma learned from 0, and the slots
join the decoder's memory, so what attention gives can be switched off and measured.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmlib.models.attention import Attention, AttentionNetwork
from mmlib.models.decoder import Decoder, DecoderConfig, Memory
from mmlib.models.encoder import Encoder, EncoderConfig
from mmlib.models.layers import positions_2d


@dataclass(frozen=True)
class ModelConfig:
    """The whole model: its networks, and how the decoder uses the attention."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    maps: int = 8  # k; 0 leaves the attention network out
    modulate: bool = True  # F (1 + gamma a)
    slots: bool = True  # slots as extra memory


class Encoded(NamedTuple):
    """What encoding a batch gives."""

    features: Tensor  # (b, d, h, w), before modulation
    valid: Tensor  # (b, 1, h, w)
    attention: Attention | None
    memory: Memory


class Recogniser(nn.Module):
    """Pictures to token logits. Raises ValueError if encoder and decoder differ in width."""

    def __init__(self, vocabulary: int, config: ModelConfig | None = None):
        super().__init__()
        self.config = config = config or ModelConfig()
        d = config.encoder.d
        if config.decoder.d != d:
            raise ValueError(f"encoder and decoder widths differ: {d} and {config.decoder.d}")
        self.encoder = Encoder(config.encoder)
        self.attention = AttentionNetwork(d, config.maps) if config.maps else None
        self.scalars = nn.ParameterDict({
            # At 0, attention changes no feature at first.
            "gamma": torch.zeros(()), "slot_gate": torch.tensor(0.1),
            "slot_position": torch.randn(max(config.maps, 1), d) * 0.02})
        self.decoder = Decoder(vocabulary, config.decoder)
        self.symbols = nn.Linear(d, vocabulary)  # the symbol's class at a point: a side loss

    def encode(self, x: Tensor, valid: Tensor) -> Encoded:
        """x (b, 1 or 2, H, W), valid (b, 1, h, w), as `Encoder` takes them."""
        features = self.encoder(x, valid)
        b, d, h, w = features.shape
        position = positions_2d(h, w, d, features.device).view(1, h * w, d).expand(b, -1, -1)
        bias = torch.zeros_like(valid).masked_fill_(valid == 0, -1e4).view(b, 1, 1, h * w)
        attention, seen, extra = None, features, []
        if self.attention is not None:
            attention = self.attention(features, valid)
            if self.config.modulate:
                seen = features * (1 + self.scalars["gamma"] * attention.saliency)
            if self.config.slots:
                extra = [attention.slots * self.scalars["slot_gate"]]
                places = self.scalars["slot_position"].expand(b, -1, -1)
                position = torch.cat([position, places], 1)
                bias = torch.cat([bias, bias.new_zeros(b, 1, 1, attention.slots.shape[1])], -1)
        cells = torch.cat([seen.flatten(2).transpose(1, 2).float(), *extra], 1)
        return Encoded(features, valid, attention, Memory(cells, position, bias))

    def forward(self, x: Tensor, valid: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Encoded]:
        """tokens (b, r, t): r prefixes for each picture.

        Returns logits (b, r, t, v), the guided head's cross-attention (b, r, t, cells) over the h w
        cells (and the slots, last), and the encoding.
        """
        encoded = self.encode(x, valid)
        b, r, t = tokens.shape
        prefixes = tokens.view(b * r, t)
        logits, attention = self.decoder(prefixes, encoded.memory, want_attention=True)
        return logits.view(b, r, t, -1), attention.view(b, r, t, -1), encoded
