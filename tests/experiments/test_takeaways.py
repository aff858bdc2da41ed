"""The numbers behind the five sentences, by hand."""

import numpy as np
import pandas as pd
import pytest

from experiments.takeaways import hit_rates_by_leak, mrr_by_order
from metrics import summarize


def test_hit_rates_by_leak_by_hand():
    runs = pd.DataFrame([{"model": "NARM", "variant": "causal", "ranks": np.array([1, 30, 20, 21, 2])}])
    table = hit_rates_by_leak(runs, np.array([True, True, False, False, True]))
    assert table.loc["NARM, causal"].tolist() == pytest.approx([2 / 3, 1 / 2, 2 / 3])


def test_mrr_by_order_excludes_sessions_of_one_item():
    lengths = np.array([1, 2, 3])
    # A session of one item has the same rank in order and shuffled.
    runs = [
        {"model": "NARM", "ranks": np.array([1, 2, 4]), "shuffled": summarize(np.array([1, 4, 5]))},
        {"model": "NARM", "ranks": np.array([2, 1, 1]), "shuffled": summarize(np.array([2, 1, 30]))},
    ]
    table = mrr_by_order(pd.DataFrame(runs), lengths)
    assert table.loc["NARM", "in order"] == pytest.approx((1 / 2 + 1 / 4 + 1 + 1) / 4)
    assert table.loc["NARM", "shuffled"] == pytest.approx((1 / 4 + 1 / 5 + 1 + 0) / 4)
