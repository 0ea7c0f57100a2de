# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from components.ingest import encode


def test_splitmix64_gives_the_published_sequence():
    # The first outputs of the generator with seed 0 are the hashes of 0, g, 2 g with its increment g.
    steps = np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)

    assert [f"{value:016x}" for value in encode.splitmix64(steps).tolist()] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
        "06c45d188009454f",
    ]


@pytest.mark.parametrize(("count", "chosen"), [(60_000, 5_000), (11, 0), (1, 1)])
def test_exactly_so_many_are_chosen(count, chosen):
    indices = encode.lowest_ranks(count, chosen)

    assert len(indices) == chosen
    assert (np.diff(indices) > 0).all()
    assert ((indices >= 0) & (indices < count)).all()


def test_no_class_of_cyclic_data_is_favoured():
    chosen = encode.lowest_ranks(60_000, 5_000)

    for period in (2, 10, 12):
        counts = np.bincount(chosen % period, minlength=period)
        # Five standard deviations of a fair choice.
        assert np.abs(counts - 5_000 / period).max() < 5 * np.sqrt(5_000 / period)
