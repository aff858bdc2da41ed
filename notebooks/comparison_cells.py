"""Cells of 5_comparison.ipynb and 6_tuning.ipynb: texts that alternate, Markdown and code."""


def only_in(folder: str, module: str) -> str:
    """Code that says in a sentence that a notebook was opened elsewhere, where its imports would fail."""
    return f"""if not Path("{module}").exists():
    raise FileNotFoundError("Open this notebook where it lies, in {folder}: "
                            "it needs {module} there.")"""


IMPORT_PATH = (
    only_in("the collection's folder notebooks", "../process_data.py") + '\nsys.path.insert(0, "..")'
)

COMPARISON = [
    """# Which model recommends best?

Every baseline, the six neural models and their ensemble on Amazon Beauty and Cellphones, evaluated honestly; how
sure the differences are; and why the report's table said otherwise.

The numbers come from saved runs (`results/runs/*.json`, one file a run, written by `make comparison`: settings,
metrics, one rank per query), so opening this takes a minute. A run that is missing, or whose recipe has changed since,
is done now: a minute or two each on one core, those of the report's protocol up to ten, an ensemble's
with its members up to twenty.""",
    """%matplotlib inline
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

"""
    + IMPORT_PATH,
    "The collection's own modules:",
    """import compare
import plots
import report
from checkpoint import load_checkpoint
from metrics import confidence_interval, gains, hit_rate, share_met
from models import COUNT_MODELS, MODELS, NEURAL_MODELS
from process_data import REPORT_PRESET, leak_rate, leaked_rows, load_datasets, maximal_sessions, prepare
from train import find_pretrained, load_recipe""",
    "## Parameters",
    """DATASETS = ["Amazon_Beauty", "Amazon_Cell"]  # the report's protocol is run on the first
SPLIT_SEEDS = [0, 1]
SEEDS = [0, 1, 2]
EPOCHS = None  # for runs that are missing; None: the recipe's""",
    "## Data and runs",
    """datasets = {dataset.short_name: dataset for dataset in load_datasets(DATASETS)}
first = next(iter(datasets))
asked = {"split_seeds": SPLIT_SEEDS, "seeds": SEEDS, "epochs": EPOCHS}
report_plans = list(compare.report_plans(first, sha256=datasets[first].sha256, epochs=EPOCHS))
honest_plans = []
for name, dataset in datasets.items():
    plans = list(compare.honest_plans(name, sha256=dataset.sha256, **asked))
    compare.run_missing(dataset, plans + (report_plans if name == first else []))
    honest_plans += plans
honest, reported = compare.load_results(honest_plans), compare.load_results(report_plans)
print(f"{len(honest)} honest runs, {len(reported)} runs of the report's protocol")""",
    """## 1. The report's table, under its own protocol

Rows split at random, the report's hyperparameters, NARM and SR-GNN trained on single labels, the others on shifted
sequences. Ours is one seed, at the epoch with the best validation MRR@20; the report's rows are of the epochs that it
chose. (Its other GRU4REC rows: `0_GRU4REC.ipynb`.)""",
    """trained_on = {m: load_recipe("report", m, first)["data"]["dataset"] for m in compare.REPORTED}
by_row = reported[reported["split"] == "row"].set_index(["model", "protocol"])
ours = pd.DataFrame({m: by_row.loc[(m, f"report-{rows}"), ["MRR@20", "HR@20", "accuracy"]]
                     for m, rows in trained_on.items()}).T.astype(float)
theirs = pd.DataFrame(report.TABLE, index=["MRR@20", "HR@20", "accuracy"]).T
pd.concat({"report": theirs, "ours": ours.round(3)}, axis=1).loc[list(compare.REPORTED)]""",
    """What to look for: whether the models trained on shifted sequences (GRU4REC, GRUwATT, GGNNwATT) stand apart from
those trained on single labels (NARM, SR-GNN), here as in the report. (GGNNwATT as the report has it does not: in
training its graph holds the edge to the target, so it learns to copy the target from the graph, and has nothing to copy
when it is tested. More on that below.)

## 2. Why it is wrong

A user's rows are prefixes of one another: `[a]->b`, `[a, b]->c`, `[a, b, c]->d`. Split at random, `[a, b]->c` is
validated while `[a, b, c]->d` is trained, and trained on shifted sequences that row contains the pair
`a, b -> c` word for word. (Rows of the greatest length are safe: there is no longer one to hold them.)""",
    """data = prepare(datasets[first], split="row", **REPORT_PRESET)
leaked = leaked_rows(data.train, data.valid)
same, other = leak_rate(data.train, data.valid)
print(f"leak rate {same:.3f} from the same user, {other:.3f} from any user")
plots.plot_leak(leaked, data.valid.lengths);""",
    """HR@20 of each model on the validation rows that shifted training contains word for word, and on the others. The
models trained on single labels have not been given these pairs as targets; but they too have seen the items together
in one session, so a small part of the leak may remain.""",
    """parts = {f"{m}, {protocol.removeprefix('report-')}": {
             "in shifted training": hit_rate(row["ranks"][leaked], 20),
             "not": hit_rate(row["ranks"][~leaked], 20),
             "share of hits": np.mean(leaked[row["ranks"] <= 20])}
         for (m, protocol), row in by_row.iterrows()}
parts = pd.DataFrame(parts).T
display(parts.round(3))
plots.plot_pairs(parts[["in shifted training", "not"]], xlabel="HR@20, row split");""",
    """The last column is the share of a model's hits that are such rows: as far as it exceeds their share of all rows,
printed above, a headline is memory. On the other rows nobody has been shown the answer: compare the models there.

What does training on shifted sequences do, apart from the leak? The same models on both kinds of rows, split by row
and by user. By row there is no test part, so the validation part is shown, which also chose the epoch; by user both. (NARM on shifted sequences, by row, still rose at its hundredth and last epoch.)""",
    """runs = reported.assign(rows=reported["protocol"].str.removeprefix("report-"))
by_user = runs[runs["split"] == "user"]
parts_of = {"row, validation": runs[runs["split"] == "row"].assign(shown=lambda r: r["valid HR@20"]),
            "user, validation": by_user.assign(shown=by_user["valid HR@20"]),
            "user, test": by_user.assign(shown=by_user["HR@20"])}
grid = pd.concat(parts_of, names=["split by"]).reset_index("split by")
grid = grid.pivot_table(index="model", columns=["rows", "split by"], values="shown")
grid = grid.loc[list(compare.REPORTED)]
display(grid.style.format("{:.3f}", na_rep=""))
flat = grid[["TrainDataset", "MyDataset"]].drop(columns="user, validation", level=1)
flat.columns = [f"{rows}, by {split}" for rows, split in flat.columns]
plots.plot_pairs(flat, xlabel="HR@20");""",
    "The gain from shifted sequences, mean of the five models, with a bootstrap interval over the scored users:",
    """hits = {(run.rows, run.split, run.model): run.ranks <= 20 for run in runs.itertuples()}
for split, part in (("row", "valid"), ("user", "test")):
    scored = getattr(prepare(datasets[first], split=split, **REPORT_PRESET), part)
    gained = np.mean([hits["TrainDataset", split, m] * 1.0 - hits["MyDataset", split, m]
                      for m in compare.REPORTED], axis=0)
    low, high = confidence_interval(gained, scored.users)
    print(f"split by {split}: {gained.mean():+.3f} HR@20, 95 % of {low:+.3f} .. {high:+.3f}")""",
    """Split by user, no row of a scored user is trained on. All prefixes of a training user are rows already, so shifted
sequences add little (their early steps weigh more): a difference that remains may come from that, and from the seed,
of which there is one. For GRUwATT and GGNNwATT a second flaw is mixed in; the next picture separates it.

The report's own two models see the future in training (their attention asks with the last state, their graph holds
the edge to the target). The same with `causal=True`, where each step sees only what came before:""",
    """seeing = grid.loc[["GRUwATT", "GGNNwATT"], ["TrainDataset", "causal"]]
seeing = seeing.drop(columns="user, validation", level=1)
seeing.columns = [f"{'sees the past alone' if rows == 'causal' else 'sees the future'}, by {split}"
                  for rows, split in seeing.columns]
display(seeing.round(3))
plots.plot_pairs(seeing, xlabel="HR@20");""",
    """On Beauty the row split rewards the repair out of all proportion: a GGNNwATT that can no longer copy its target
from the graph has to remember pairs, and many of those are what is validated, so its HR@20 triples. Split by user the
same repair gains little. A protocol that leaks cannot even tell whether a repair was one.

## 3. The honest table

Everything changes at once here, and no number below compares with one above: users are split, the recipe is `best`
(tuned, cosine scores, dropout), rare items and short sessions stay, and every prefix of a held-out user is a query.

Test part of a user split, recipe `best`, full catalogue, seen items left out, ties against the model: mean ±
standard deviation over the seeds, one table a dataset and split seed. Models that only count have no seed.
Hyperparameters were chosen on the validation part of split seed 0, and whether embeddings take over their neighbours'
on those of both splits: some users of either test part were among those that chose or trained in the other split.""",
    """names = ["HR@5", "HR@10", "HR@20", "MRR@5", "MRR@10", "MRR@20", "NDCG@20", "accuracy"]
order = [model for model in MODELS if model in set(honest["model"])]

def digits(value):
    return f"{value:.4f}".lstrip("0")

for (name, split_seed), part in honest.groupby(["dataset", "split_seed"]):
    mean, spread = (getattr(part.groupby("model")[names], f)().loc[order] for f in ("mean", "std"))
    text = mean.map(digits) + spread.map(lambda s: "" if np.isnan(s) else f" ± {digits(s)}")
    bold = mean.eq(mean.max()).map(lambda best: "font-weight: bold" if best else "")
    caption = f"{name}, test part, split seed {split_seed}, seeds {SEEDS}"
    shown = text.style.set_caption(caption).apply(lambda _, bold=bold: bold, axis=None)
    display(shown.set_properties(**{"white-space": "nowrap"}))""",
    "What they cost where the saved runs were made, one thread of a 2-core EPYC that multiplies in bfloat16: parameters"
    " learned by gradient, seconds of training (an ensemble's with its members), queries a second (scores and top 20);"
    " medians over the seeds of the first split. The two cores had other work at times, so read them as rough:",
    """costs = ["parameters", "train_seconds", "queries_per_second"]
cost = honest[honest["split_seed"] == SPLIT_SEEDS[0]].groupby(["dataset", "model"])[costs].median()
cost.round(0).astype(int).unstack(0).loc[order]""",
    """How sure is the order? The model that validation prefers (mean MRR@20), and the neural model that it prefers, less each
other, on the test part: paired bootstrap over users of the mean over the seeds. Intervals are wide enough for all comparisons of a column together
(Bonferroni, 95 %); one that excludes 0 is a difference that the choice of users does not explain. The seeds' spread
is in the table above.""",
    """def intervals(part, users, best, metric):
    values = {m: np.mean([gains(ranks, metric, 20) for ranks in runs_of_it["ranks"]], axis=0)
              for m, runs_of_it in part.groupby("model")}
    level = 1 - 0.05 / (len(values) - 1)
    found = {m: confidence_interval(values[best] - of, users, level=level, rounds=4000)
             for m, of in values.items() if m != best}
    return {m: f"{low:+.4f} .. {high:+.4f}".replace("0.", ".") for m, (low, high) in found.items()}""",
    "",
    """tests = {"of all": {}, "of the neural": {}}
for (name, split_seed), part in honest.groupby(["dataset", "split_seed"]):
    users = prepare(datasets[name], split_seed=split_seed).test.users
    by_valid = part.groupby("model")["valid MRR@20"].mean()
    preferred = {"of all": by_valid.idxmax(), "of the neural": by_valid[list(NEURAL_MODELS)].idxmax()}
    for which, best in preferred.items():
        for metric in ("HR", "MRR"):
            found = intervals(part, users, best, metric)
            tests[which][name, f"split {split_seed}", f"{metric}@20: {best} less"] = found""",
    "",
    """for found in tests.values():
    table = pd.DataFrame(found).reindex(order).dropna(how="all").fillna("")
    display(table.style.set_properties(**{"white-space": "nowrap"}))""",
    """## 4. Pictures

For split seed 0, the mean over the seeds. Popularity is left out of those where it would lie far below all others.
HR@K and MRR@K: the six neural models run close together; of those that only count, CoOccurrence, RandomWalk and SLIST
are level with them at the first places and fall behind from there; SKNN and its kin are below throughout.""",
    """shown = dict(iter(honest[honest["split_seed"] == SPLIT_SEEDS[0]].groupby("dataset")))
prepared = {name: prepare(dataset, split_seed=SPLIT_SEEDS[0]) for name, dataset in datasets.items()}

def ranks_of(name):
    part = shown[name]
    return {m: list(part[part["model"] == m]["ranks"]) for m in order if m != "Popularity"}

def show(figure):
    display(figure)
    plots.plt.close(figure)

for name in datasets:
    show(plots.plot_at_k(ranks_of(name), title=name))""",
    """By session length, for the ensemble and, of the neural models and of those that count, the two that validation
prefers; bars are 95 % intervals over users. ("1" has the few sessions too of which no item is known.) Longer sessions
are not harder, and what separates the models within a length is mostly smaller than what separates the users:""",
    """def some_of(name):
    by_valid = shown[name].groupby("model")["valid MRR@20"].mean().sort_values(ascending=False)
    kinds = (NEURAL_MODELS, COUNT_MODELS, ["Ensemble"])
    some = [m for kind in kinds for m in [m for m in by_valid.index if m in kind][:2]]
    return {m: ranks_of(name)[m] for m in some}

for name, data in prepared.items():
    lengths = data.test.lengths.clip(1, 5)
    show(plots.plot_by_group(some_of(name), lengths - 1, ["1", "2", "3", "4", "5"], data.test.users,
                             xlabel="items in the session", title=name))""",
    """By how popular the target is: the head is the most popular items that make up a third of the training data, the
tail the rarest that make up a third; unseen targets are misses for everybody. What is popular is found more often, and
most of what can be gained lies in the tail:""",
    """kinds = ["unseen", "tail", "middle", "head"]
for name, data in prepared.items():
    order_of = np.argsort(data.popularity, kind="stable")
    share = np.empty(len(order_of))
    share[order_of] = data.popularity[order_of].cumsum() / data.popularity.sum()
    seen = data.popularity[data.test.labels] > 0
    groups = np.where(seen, 1 + np.digitize(share[data.test.labels], [1 / 3, 2 / 3]), 0)
    show(plots.plot_by_group(some_of(name), groups, kinds, data.test.users,
                             xlabel="target", title=name))""",
    """How much of the catalogue is recommended to anybody, and how popular that is. At 1 recommendations are as popular as
what people really took next; to the right of it a model leans on popular items:""",
    """for name, part in shown.items():
    means = part.groupby("model")[["popularity", "catalogue_share"]].mean().loc[order]
    means = means.drop("Popularity", errors="ignore")
    figure = plots.plot_named_points({m: tuple(row) for m, row in means.iterrows()},
                                     xlabel="popularity of recommended items over the true next ones'",
                                     ylabel="share of the items in any top 20")
    figure.suptitle(name)
    show(figure)""",
    """Learning curves of all neural models, cut off below 70 % of the best. They rise, or stay level, to the end of the
one-cycle schedule, where each is within 2 % of its best:""",
    """for name, part in shown.items():
    tables = {m: list(part[part["model"] == m]["table"]) for m in NEURAL_MODELS}
    show(plots.plot_learning_curves(tables, title=name))""",
    """Does the order of the items matter? The same models on the test sessions of two or more items, in order and
shuffled (every session once, at random, so half of those of two items stay as they are):""",
    """def in_order_and_shuffled(row):
    # Sessions of one item are no different shuffled, so what is left is the others.
    long = prepared[row["dataset"]].test.lengths > 1
    worth = gains(row["ranks"], "MRR", 20)
    shuffled = (row["shuffled"]["MRR@20"] * len(long) - worth[~long].sum()) / long.sum()
    return pd.Series({"in order": worth[long].mean(), "shuffled": shuffled})

ordered = {}
for name, part in shown.items():
    both = part.apply(in_order_and_shuffled, axis=1).groupby(part["model"]).mean().loc[order]
    ordered[name] = both["shuffled"] / both["in order"]
    figure = plots.plot_pairs(both, xlabel="MRR@20 of sessions of two or more items")
    figure.suptitle(name, x=0.1)
    show(figure)""",
    """What the embedding has learned: the items of the committed GRU4REC, their first two principal components. That two
directions of 128 hold so little says that there are many kinds of items, not two; popularity is one thing that they
show. Among the items nearest to one in all 128, those that somebody took together with it are many times as frequent as
among all items:""",
    """for name, dataset in datasets.items():
    path = find_pretrained(dataset, "GRU4REC")
    if path is None:
        print(f"{name}: no GRU4REC trained on all rows yet; make results trains it")
        continue
    checkpoint = load_checkpoint(path)
    vectors = checkpoint.model.item_matrix()[1:].detach()
    show(plots.plot_map(vectors.numpy(), checkpoint.popularity[1:], title=name))
    sessions = checkpoint.vocabulary.encode_sessions(maximal_sessions(dataset.train)[0])
    near, anybody = share_met(vectors, sessions)
    print(f"{name}: of the ten items nearest to an item, {near:.0%} were taken by somebody "
          f"who took it too; of all items, {anybody:.1%}")""",
    "## 5. What to take home\n\nFive sentences, with the numbers of what is above (split seed 0, test part):",
    """means = pd.concat(shown.values()).groupby(["dataset", "model"])[["HR@20", "MRR@20"]].mean()
neural = means.query("model in @NEURAL_MODELS").groupby("dataset")
counting = means.query("model in @COUNT_MODELS").groupby("dataset").max() / neural.max()
closest = (neural.min() / neural.max())["MRR@20"]
single = means.drop("Ensemble", level="model").groupby("dataset").max()
ensemble = means.xs("Ensemble", level="model") / single
kept = pd.DataFrame(ordered).loc[list(NEURAL_MODELS)].mean()

def listed(shares):
    return " and ".join(f"{share:.0%} ({name})" for name, share in shares.items())""",
    "",
    """memory = parts.loc["GRU4REC, TrainDataset", "share of hits"]
print(f"1. Split by user: by row, {memory:.0%} of GRU4REC's hits are pairs it was trained on.")
print("2. Architecture is the small part: trained alike, the worst of six neural models reaches",
      listed(closest), "of the best one's MRR@20.")
print("3. Count before you train: counting reaches", listed(counting["MRR@20"]),
      "of the best neural MRR@20, and", listed(counting["HR@20"]), "of its HR@20.")
print("4. Average: the ensemble reaches", listed(ensemble["HR@20"]),
      "of the best single model's HR@20.")
print("5. Which items matters more than their order: shuffled, sessions of two or more items keep",
      listed(kept), "of the neural models' MRR@20.")""",
]

TUNING = [
    """# How the hyperparameters were chosen

One Optuna study per model and dataset, the same number of trials for each, neural or counting, judged by MRR@20 on
the validation part of the user split (split seed 0). The test part is never scored.

The neural trials were run before the recipes had `neighbours`, which was chosen apart (`recipes.toml` says how); the
finals have it.

A neural trial is cheaper than a recipe: fewer epochs, a loss estimated from sampled items, one seed. So the best
trial, where it beats the recipe's own, then runs as recipes are run, with the full softmax and all epochs, against
the recipe that was there before, and from a second seed where it was better from the first. If it is better in the
mean too, it is the recipe `best` from then on (`python tune.py --write`). A counting model has no seed and no cheaper
trial: its best trial is.

Studies are journals in `results/tuning/`; one that is complete is only read here, which takes seconds.""",
    """%matplotlib inline
import sys
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from IPython.display import display

"""
    + IMPORT_PATH,
    "The collection's own modules:",
    """import plots
import tune
from models import NEURAL_MODELS
from process_data import load_datasets
from train import load_recipe""",
    "## Parameters",
    """DATASETS = ["Amazon_Beauty", "Amazon_Cell"]
MODELS = list(tune.SPACES)
TRIALS = tune.TRIALS  # finished trials that each study shall have
EPOCHS = tune.EPOCHS  # of a neural model's trial""",
    """## The search

What is drawn, and from where (low, high, or the choices):""",
    """def described(choice):
    if isinstance(choice, list):
        return "one of " + ", ".join(map(str, choice))
    return f"{choice[0]} to {choice[1]}" + " (log)" * bool(choice[2:])

for model in MODELS:
    space = {key.split(".")[1]: described(choice) for key, choice in tune.SPACES[model].items()}
    shared = {key.split(".")[1] for key in tune.NEURAL_SPACE} if model in NEURAL_MODELS else set()
    own = "; ".join(f"{key}: {choice}" for key, choice in space.items() if key not in shared)
    print(f"{model:14}{'what all neural models have' + '; ' * bool(own) if shared else ''}{own}")
neural = {key.split(".")[1]: described(choice) for key, choice in tune.NEURAL_SPACE.items()}
print("\\nall neural models:", "; ".join(f"{key}: {choice}" for key, choice in neural.items()))""",
    """A neural trial trains on a one-cycle schedule. After its third and its ninth epoch asynchronous successive
halving (Li et al. 2020) stops it unless it is among the best third of those that came so far before it. Trials that
are missing are run now:""",
    """datasets = {dataset.short_name: dataset for dataset in load_datasets(DATASETS)}
optuna.logging.set_verbosity(optuna.logging.WARNING)
studies = {(name, model): tune.tune(dataset, model, trials=TRIALS, epochs=EPOCHS)
           for name, dataset in datasets.items() for model in MODELS}
counts = tune.table_of_studies()
counts[counts["dataset"].isin(datasets)].set_index(["dataset", "model"]).round(4)""",
    "## What came out\n\nThe best so far, trial by trial; pruned trials count as trials:",
    """complete = optuna.trial.TrialState.COMPLETE

def values(study):
    return [t.value if t.state == complete else float("nan") for t in tune.finished(study)]

for name in datasets:
    figure = plots.plot_studies({m: values(studies[name, m]) for m in MODELS}, title=name)
    display(figure)
    plots.plt.close(figure)""",
    """What mattered: how much each hyperparameter tells the best third of a study's trials from all (PED-ANOVA, Watanabe
et al. 2023; the shares of a model add up to 1). A neural trial counts by its MRR@20 after the third epoch, which
all of them reached, and with 30 trials these shares are rough. So read them as what speeds up the start: after three
epochs little dropout is ahead, at sixteen it often is not. Halving after the third epoch shares that bias; the finals
are there to correct it.""",
    """groups = [[m for m in MODELS if m in NEURAL_MODELS], [m for m in MODELS if m not in NEURAL_MODELS]]
for name, group in ((name, group) for name in datasets for group in groups):
    shares = {m: tune.importances(studies[name, m]) for m in group
              if len(tune.SPACES[m]) > 1 and len(tune.finished(studies[name, m])) >= 20}
    if shares:
        table = pd.DataFrame(shares).T
        table = table[[key for m in group for key in tune.SPACES[m] if key in table]]
        table = table.loc[:, ~table.columns.duplicated()].rename(columns=lambda key: key.split(".")[1])
        figure = plots.plot_importance(table, title=name)
        display(figure)
        plots.plt.close(figure)""",
    """The neural models' completed trials against what all of them have in common; a cross is the recipe's own trial, of
ten epochs where the recipe has sixteen. Trials that were stopped are not shown, so these are survivors:""",
    """for name in datasets:
    trials = {}
    for m in (m for m in MODELS if m in NEURAL_MODELS):
        done = [t for t in tune.finished(studies[name, m]) if t.state == complete]
        trials[m] = pd.DataFrame([t.params | {"value": t.value} for t in done])
        trials[m]["own"] = ["fixed_params" in t.system_attrs for t in done]
    figure = plots.plot_slices(trials, list(tune.NEURAL_SPACE), log=["fit.lr", "fit.weight_decay"])
    figure.suptitle(name, x=0.05)
    display(figure)
    plots.plt.close(figure)""",
    """## The finals

Validation MRR@20 of what has run as recipes are, by seed, and whether it is the recipe `best` now; those of
recipes since replaced are kept. A study without a row had no trial that beat the recipe's own; a challenger without a
second seed lost from the first. These values do
not compare with the trials' above: those are the best of thirty, and so flattered by chance, and of another loss.""",
    """finals = tune.table_of_finals()
if len(finals):
    finals = finals[finals["dataset"].isin(datasets)].set_index(["dataset", "model"])
    seeds = {name: "{:.4f}" for name in finals if name.startswith("seed")}
    shown = dict.fromkeys(finals, "{:.3g}") | seeds | {"recipe": lambda yes: "yes" if yes else ""}
    display(finals.style.format(shown, na_rep=""))""",
    "## The recipes\n\nOf what was searched, what `--recipe best` says now; the rest is a model's default:",
    """def said(name, m):
    recipe = load_recipe("best", m, name)
    found = {key: recipe[kind].get(key) for kind, key in (k.split(".") for k in tune.SPACES[m])}
    return ", ".join(f"{key} {v:.3g}" if isinstance(v, float) else f"{key} {v}"
                     for key, v in found.items() if v is not None)

pd.DataFrame({name: {m: said(name, m) for m in MODELS} for name in datasets}).style""",
]
