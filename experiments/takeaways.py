"""The five sentences at the top of notebooks/5_comparison.ipynb, computed from saved runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from experiments.leakage import leaked_rows
from metrics import hit_rate, per_query_metric
from models import BASELINES, NEURAL_MODELS
from plots import escape_markdown
from process_data import REPORT_PRESET, SessionDataset, prepare


def hit_rates_by_leak(runs: pd.DataFrame, leaked: np.ndarray) -> pd.DataFrame:
    """Each run's HR@20 on the validation rows that shifted training contains, and on the others.

    leaked (Q,) bool: see `leaked_rows`. The last column is the share of leaked rows among the run's hits.
    """
    rates = {
        f"{run.model}, {run.variant}": {
            "in shifted training": hit_rate(run.ranks[leaked], 20),
            "not": hit_rate(run.ranks[~leaked], 20),
            "share of hits": leaked[run.ranks <= 20].mean(),
        }
        for run in runs.itertuples()
    }
    return pd.DataFrame(rates).T


def mrr_by_order(runs: pd.DataFrame, lengths: np.ndarray) -> pd.DataFrame:
    """Each model's MRR@20 on test sessions of two or more items, in order and shuffled. lengths (Q,)."""
    long = lengths > 1  # shuffling does not change a session of one item
    values = [per_query_metric(ranks, "MRR", 20) for ranks in runs["ranks"]]
    totals = [shuffled["MRR@20"] * len(long) for shuffled in runs["shuffled"]]
    table = pd.DataFrame(
        {
            "model": runs["model"].to_numpy(),
            "in order": [v[long].mean() for v in values],
            "shuffled": [(total - v[~long].sum()) / long.sum() for total, v in zip(totals, values, strict=True)],
        }
    )
    return table.groupby("model", sort=False).mean()


def takeaways(honest: pd.DataFrame, reported: pd.DataFrame, datasets: Mapping[str, SessionDataset]) -> list[str]:
    """Five sentences in Markdown, about the test split of the first split seed.

    honest: the runs of `honest_plans`; reported: those of `report_plans`, on the first of the datasets.
    """
    split_seed = int(honest["split_seed"].iloc[0])
    honest = honest[honest["split_seed"] == split_seed]
    means = honest.groupby(["dataset", "model"])[["HR@20", "MRR@20"]].mean()

    def of_models(models) -> object:
        return means[means.index.get_level_values("model").isin(models)].groupby("dataset")

    neural = of_models(NEURAL_MODELS)
    worst = neural.min()["MRR@20"] / neural.max()["MRR@20"]
    baseline = of_models(BASELINES).max() / neural.max()
    ensemble = of_models(["Ensemble"]).max() / of_models([*NEURAL_MODELS, *BASELINES]).max()
    data = prepare(next(iter(datasets.values())), split="row", **REPORT_PRESET)
    gru4rec = reported.query("model == 'GRU4REC' and split == 'row' and variant == 'TrainDataset'")
    memory = hit_rates_by_leak(gru4rec, leaked_rows(data.train, data.valid))["share of hits"].iloc[0]
    without_order = {}
    for name, runs in honest[honest["model"].isin(NEURAL_MODELS)].groupby("dataset", sort=False):
        order = mrr_by_order(runs, prepare(datasets[name], split_seed=split_seed).test.lengths)
        without_order[name] = (order["shuffled"] / order["in order"]).mean()

    def listed(shares) -> str:
        return " and ".join(f"{share:.0%} ({escape_markdown(name)})" for name, share in shares.items())

    return [
        f"**Split by user.** With a random row split, {memory:.0%} of GRU4REC's hits are pairs that it was trained on.",
        "**The architecture matters little.** The worst of the six neural models reaches "
        f"{listed(worst)} of the best one's MRR@20.",
        f"**Try baselines first.** The best of them reaches {listed(baseline['MRR@20'])} of the best neural "
        f"model's MRR@20, and {listed(baseline['HR@20'])} of its HR@20.",
        f"**Average several models.** The ensemble reaches {listed(ensemble['HR@20'])} of the best single "
        "model's HR@20.",
        "**The items of a session matter more than their order.** On shuffled sessions of two or more items, "
        f"neural models keep {listed(without_order)} of their MRR@20.",
    ]
