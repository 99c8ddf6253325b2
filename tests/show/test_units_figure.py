"""The figures of masked reading."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from mmlib.data.sample import from_pack
from mmlib.data.units import units
from mmlib.show.units import clusters_figure, sequence_figure, unit_inks
from mmlib.train.masked_reading import ReadingConfig, ink_clusters

pytestmark = pytest.mark.usefixtures("corpus")


@pytest.fixture
def centres(corpus):
    return ink_clusters(corpus.pack, corpus.train, ReadingConfig(prototypes=12), seed=0)


def test_the_sequence_names_each_unit_and_each_relation(corpus, centres):
    sample = from_pack(corpus.pack, int(corpus.train[0]))
    count = int(units(sample.points, sample.stroke).max()) + 1
    found = unit_inks(sample, centres)
    assert len(found) == count
    assert sum(len(ink.points) for _, ink in found) == len(sample.points)
    fig = sequence_figure(sample, centres, masked=(1,))
    assert len(fig.axes[0].patches) == 1
    above, below = fig.axes
    assert len(above.texts) == count
    words = [text.get_text() for text in below.texts]
    assert words[::2] == [text.get_text() for text in above.texts]
    assert set(words[1::2]) <= set("→↗↑↖←↙↓↘⊙")
    plt.close(fig)


def test_a_row_shows_units_of_one_cluster(corpus, centres):
    fig = clusters_figure(corpus.pack, corpus.train[:20], centres, rows=3, columns=5)
    axes = np.array(fig.axes).reshape(3, 5)
    assert all(line[0].get_title(loc="center").startswith("cluster") for line in axes)
    assert all(line[0].collections for line in axes)
    plt.close(fig)
