"""Packing: what is found without a batch's padding is what is found with it, gradients too."""

import numpy as np
import pytest
import torch

from mmlib.draw.views import valid_cells
from mmlib.models import encoder, packing
from mmlib.models.encoder import Encoder, EncoderConfig, encode_all
from mmlib.models.packing import Moves, Packed, Padded, Sheet, packed, sheet, shelves
from mmlib.models.recogniser import Recogniser
from mmlib.train.profiles import SMALL


def padded(b: int = 9, high: int = 13, wide: int = 22, inputs: int = 1,
           seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (b, inputs, H, W) of many sizes, the first as large as the batch, and
    their cells.
    """
    rng = torch.Generator().manual_seed(seed)
    extent = torch.stack([torch.randint(2, wide, (b,), generator=rng),
                          torch.randint(2, high, (b,), generator=rng)], 1) * 8
    extent[0] = torch.tensor([wide, high]) * 8
    valid = valid_cells(extent, high * 8, wide * 8)
    picture = torch.rand(b, inputs, high * 8, wide * 8, generator=rng)
    return picture * valid.repeat_interleave(8, 2).repeat_interleave(8, 3), valid


def stirred(model: torch.nn.Module) -> torch.nn.Module:
    """With no weight at zero, where blocks start: all count."""
    torch.manual_seed(1)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.06)
    return model


@pytest.mark.parametrize("width", [5, 12, 40])
def test_shelves_keep_rectangles_apart(width):
    sizes = np.random.default_rng(width).integers(1, 6, (40, 2))
    places, height = shelves(sizes, width)
    board = np.zeros((height + 1, width + 1), int)
    for (row, column), (high, wide) in zip(places, sizes, strict=True):
        assert row + high <= height
        assert column + wide <= width
        # with a blank row and column after each
        board[row : row + high + 1, column : column + wide + 1] += 1
    inside = np.zeros_like(board)
    for (row, column), (high, wide) in zip(places, sizes, strict=True):
        inside[row : row + high, column : column + wide] += 1
    assert inside.max() == 1
    assert board[inside == 1].max() == 1, "one stands on the blank of another"


def test_moves_go_forth_and_back_with_their_gradients():
    moves = Moves(np.array([4, 0, 2]), np.array([1, 5, 0]), (5, 7))
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    there = moves.forth(x)
    assert torch.equal(there[[1, 5, 0]], x[[4, 0, 2]])
    assert torch.equal(there[[2, 3, 4, 6]], torch.zeros(4, 3, dtype=torch.float64))
    assert torch.autograd.gradcheck(moves.forth, x)
    assert torch.autograd.gradcheck(moves.back,
                                    torch.randn(7, 3, dtype=torch.float64, requires_grad=True))
    assert torch.equal(moves.back(there)[[4, 0, 2]], x[[4, 0, 2]])


def test_packed_rows_are_the_members_and_few_shapes():
    real = torch.rand(7, 30, generator=torch.Generator().manual_seed(0)) < 0.4
    x = torch.randn(7, 30, 5, requires_grad=True)
    pack = Packed(real)
    rows = pack.pack(x)
    assert len(rows) == pack.n == 128
    assert torch.equal(rows[: int(real.sum())], x[real])
    assert not rows[int(real.sum()):].any()
    assert torch.equal(pack.along(torch.arange(30)[:, None])[: int(real.sum()), 0],
                       real.nonzero()[:, 1])
    again = pack.spread(rows + 1)
    assert torch.equal(again, (x + 1) * real[..., None])
    again.sum().backward()
    assert torch.equal(x.grad, real[..., None].expand_as(x).float())


def test_packed_of_nothing():
    pack = Packed(torch.zeros(2, 3, dtype=torch.bool))
    assert not pack.spread(pack.pack(torch.ones(2, 3, 4)) + 1).any()


def test_a_batch_with_few_blanks_is_left_as_it_is():
    assert type(packed(torch.ones(4, 9, dtype=torch.bool))) is Padded
    assert sheet(torch.ones(4, 1, 9, 9)) is None
    valid = padded(b=2)[1]  # one large, one small: no room saved on a sheet as wide as `WIDTH`
    assert valid.mean() < packing.WORTH
    assert sheet(valid) is None


def test_a_sheet_gives_its_pictures_back():
    x, valid = padded(b=24, inputs=2)
    on = Sheet(valid)
    laid = on.lay(x)
    assert laid.shape == (1, 2, 8 * on.shape[0], 8 * on.shape[1])
    assert int(on.valid.sum()) == int(valid.sum())
    assert on.valid.numel() < 0.8 * valid.numel()
    assert laid.sum().item() == pytest.approx(x.sum().item(), rel=1e-5)
    cells = on.valid.repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert not (laid * (1 - cells)).any()
    assert torch.equal(on.take(on.valid), valid)


def test_cells_anywhere_keep_their_places():
    """Rectangles that begin elsewhere, with holes, and nothing at all."""
    valid = (torch.rand(30, 1, 12, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()
    valid[:, :, :2] = valid[:, :, :, :3] = valid[5] = 0
    on = Sheet(valid)
    assert torch.equal(on.take(on.valid), valid)
    assert int(on.valid.sum()) == int(valid.sum())


def test_nothing_is_packed_where_nothing_is_or_beside_a_cpu():
    assert type(packed(torch.zeros(4, 9, dtype=torch.bool))) is Padded
    assert sheet(torch.zeros(4, 1, 9, 9)) is None
    assert type(packed(torch.zeros(4, 9, dtype=torch.bool, device="meta"))) is Padded
    assert sheet(torch.zeros(4, 1, 9, 9, device="meta")) is None
    with torch.device("meta"):
        assert Encoder(SMALL.encoder)(torch.zeros(3, 1, 64, 64),
                                      torch.ones(3, 1, 8, 8)).shape == (3, 96, 8, 8)
        tokens = torch.ones(3, 2, 5, dtype=torch.long)
        assert Recogniser(60, SMALL)(torch.zeros(3, 1, 64, 64), torch.ones(3, 1, 8, 8),
                                     tokens)[0].shape == (3, 2, 5, 60)


def test_a_sheet_is_as_wide_as_its_widest_picture():
    valid = valid_cells(torch.tensor([[800, 16], [160, 80], [24, 16]]), 80, 800)
    on = Sheet(valid)
    assert on.shape[1] == 112
    assert torch.equal(on.take(on.valid), valid)


def compare(monkeypatch, model, call):
    """`call` with and without packing: the same numbers, and the same gradients."""
    found = []
    for worth in (1.0, 0.0):
        monkeypatch.setattr(packing, "WORTH", worth)
        model.zero_grad()
        outputs = call(model)
        sum((o * torch.linspace(0.5, 1.5, o.numel()).view(o.shape)).sum()
            for o in outputs).backward()
        found.append(([o.detach() for o in outputs],
                      {k: p.grad for k, p in model.named_parameters() if p.grad is not None}))
    (ours, gradients), (plain, expected) = found
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))
    assert gradients.keys() == expected.keys()
    assert expected
    for name, gradient in expected.items():
        assert float((gradients[name]
                      - gradient).norm()) <= 1e-4 * float(gradient.norm()) + 1e-7, name


@pytest.mark.parametrize("config",
                         [EncoderConfig(blocks=(1, 1), context=1),
                          EncoderConfig(widths=(32, 48), blocks=(2, 1), context=0, d=32),
                          SMALL.encoder,
                          EncoderConfig(widths=(32, 48), kernels=(6, 4), blocks=(1, 2), context=1,
                                        context_d=48, heads=4, d=32),
                          EncoderConfig(widths=(32, 48), blocks=(1, 1), coarse=1, context=1,
                                        context_d=48, heads=4, d=32),
                          EncoderConfig(form="residual", widths=(32, 48), blocks=(1, 1), context=1,
                                        context_d=48, heads=4, d=32)])
def test_an_encoder_finds_the_same_on_a_sheet(config, monkeypatch):
    x, valid = padded(b=24)
    used = []
    lay = Sheet.lay
    monkeypatch.setattr(Sheet, "lay", lambda self, x: used.append(1) or lay(self, x))
    x, valid = x.double(), valid.double()  # rounding would switch a rectifier now and then
    compare(monkeypatch, stirred(Encoder(config)).double(), lambda model: [model(x, valid)])
    own = config.form == "patches" and config.kernels == config.strides
    assert len(used) == own, "on a sheet once: with packing, where a picture's features are its own"


FORMS = [SMALL.encoder, EncoderConfig(form="residual", widths=(32, 48), blocks=(1, 1), coarse=1,
                                      context=1, context_d=48, heads=4, d=32)]


def gradients_of(model, outputs):
    """Of a sum that no two elements enter alike."""
    model.zero_grad()
    sum((o * torch.linspace(0.5, 1.5, o.numel(), dtype=o.dtype).view(o.shape)).sum()
        for o in outputs).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("worth", [0.0, packing.WORTH])
@pytest.mark.parametrize("config", FORMS)
def test_several_batches_are_encoded_as_each_would_be(config, worth, monkeypatch):
    """A wide one and a tall one."""
    monkeypatch.setattr(packing, "WORTH", worth)
    batches = [padded(b=9, high=5, wide=30), padded(b=9, high=16, wide=8, seed=1)]
    called = []
    both = Encoder.both
    monkeypatch.setattr(Encoder, "both", lambda self, *batch: called.append(1)
                        or both(self, *batch))
    model = stirred(Encoder(config)).double()
    pictures, valid = ([x.double() for x in part] for part in zip(*batches))
    found = sum(encode_all(model, pictures, valid), ())
    assert len(called) == (1 if config.form == "patches" else 2)
    alone = sum((model.both(x, own) for x, own in zip(pictures, valid, strict=True)), ())
    torch.testing.assert_close(found, alone)
    torch.testing.assert_close(gradients_of(model, found), gradients_of(model, alone))


@pytest.mark.parametrize("size", [(8, 12), (7, 9)])
@pytest.mark.parametrize("config", FORMS)
def test_a_full_canvas_needs_no_mask_and_a_bare_picture_no_ink_mask(config, size, monkeypatch):
    """As with a mask of ones and a mask channel of zeros, which are multiplied with."""
    high, wide = size
    rng = torch.Generator().manual_seed(0)
    x, valid = (
        torch.rand(3, 1, 8 * high, 8 * wide, generator=rng).double(),
        torch.ones(3, 1, high, wide).double(),
    )
    model = stirred(Encoder(config)).double()
    bare = model(x, valid)
    ours = gradients_of(model, [bare])
    monkeypatch.setattr(encoder, "unless_full", lambda valid: valid)
    whole = model(torch.cat([x, torch.zeros_like(x)], 1), valid)
    torch.testing.assert_close(bare, whole)
    torch.testing.assert_close(ours, gradients_of(model, [whole]))


def test_what_stands_on_padding_does_not_matter():
    x, valid = padded(b=24, inputs=2)
    model = stirred(Encoder(SMALL.encoder))
    dirty = x + torch.rand_like(x) * (1 - valid.repeat_interleave(8, 2).repeat_interleave(8, 3))
    torch.testing.assert_close(model(dirty, valid), model(x, valid), rtol=1e-4, atol=1e-5)


def test_a_double_stays_one():
    x, valid = padded(b=24)
    assert Encoder(SMALL.encoder).double()(x.double(), valid).dtype == torch.float64


def test_a_picture_on_a_sheet_is_read_as_if_alone():
    x, valid = padded(b=24)
    model = stirred(Encoder(SMALL.encoder)).eval()
    together = model(x, valid)
    for i in (0, 3, 23):
        rows, columns = int(valid[i, 0, :, 0].sum()), int(valid[i, 0, 0].sum())
        alone = model(x[i : i + 1, :, : rows * 8, : columns * 8],
                      valid[i : i + 1, :, :rows, :columns])
        torch.testing.assert_close(together[i : i + 1, :, :rows, :columns], alone, rtol=1e-4,
                                   atol=1e-5)


def test_a_recogniser_says_the_same_packed(monkeypatch):
    x, valid = padded(b=12)
    tokens = torch.randint(1, 60, (12, 2, 25), generator=torch.Generator().manual_seed(3))
    length = torch.randint(1, 25, (12, 2, 1), generator=torch.Generator().manual_seed(4))
    tokens = tokens * (torch.arange(25) < length)
    real = tokens > 0
    used = []
    pack = Packed.pack
    monkeypatch.setattr(Packed, "pack", lambda self, x: used.append(1) or pack(self, x))

    def call(model):
        logits, attention, encoded = model(x, valid, tokens)
        return [logits[real], attention[real], encoded.features]

    compare(monkeypatch, stirred(Recogniser(60, SMALL)), call)
    assert used
