"""The residual form of the encoder's parts (He et al. 2016, arXiv:1603.05027).

It learns more from the same pictures where cross-entropy alone teaches it (`scripts/benchmark.py
learning`): batch norm and a rectifier before each convolution, a first
convolution that overlaps and pools, transitions that average (as in a DenseNet, arXiv:1608.06993),
and batch norm of F, so that what all cells share does not hide where they differ.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.models.layers import Conv, zero_padding_


class BatchNorm(nn.BatchNorm2d):
    """Batch norm of (b, c, h, w); one single cell, which has no variance, takes the running one."""

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() > self.num_features:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias,
                            eps=self.eps)


class RectifiedNorm(BatchNorm):
    """Batch norm and a rectifier."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(super().forward(x))


class Stem(nn.Sequential):
    """(b, c, H, W) to (b, channels, H/4, W/4): a 7 x 7 convolution, batch norm, max pooling."""

    def __init__(self, inputs: int, channels: int):
        conv = Conv(inputs, channels, 7, 2, 3, bias=False)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        # The rectifier last: it commutes with the maximum and costs a quarter there.
        super().__init__(conv, BatchNorm(channels), nn.MaxPool2d(3, 2, 1), nn.ReLU(inplace=True))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class Transition(nn.Module):
    """(b, c, h, w) to (b, channels, h/2, w/2): norm, rectifier, mean of 2 x 2, 1 x 1 layer."""

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.norm = BatchNorm(inputs)
        self.conv = nn.Conv2d(inputs, channels, 1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        return self.conv(F.avg_pool2d(F.relu_(zero_padding_(self.norm(x), valid)), 2))


class Block(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))), padding zeroed before each convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = BatchNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.between = BatchNorm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        y = self.conv1(F.relu_(zero_padding_(self.norm(x), valid)))
        return x + self.conv2(F.relu_(zero_padding_(self.between(y), valid)))
