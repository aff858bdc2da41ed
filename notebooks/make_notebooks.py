"""Writes every notebook from one source, so that what the five models share is one text.

    python notebooks/make_notebooks.py             # write them, without outputs
    python notebooks/make_notebooks.py --execute   # and run them from top to bottom, keeping the outputs

Edit cells here, not in the notebooks: a test compares them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nbformat
import papermill
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from comparison_cells import COMPARISON, IMPORT_PATH, TUNING, only_in  # noqa: E402

# --------------------------------------------------------------------------------------------------
# What each model's notebook says for itself

TITLES = {
    "GRU4REC": r"""# GRU4REC

**Hidasi et al. 2016**, *Session-based Recommendations with Recurrent Neural Networks*, ICLR.

A recurrent network reads the session item by item and keeps what it has read in a state. With $x_t$ the
embedding of the $t$-th item, one GRU layer computes

$$z_t = \sigma(W_z x_t + U_z h_{t-1}), \quad r_t = \sigma(W_r x_t + U_r h_{t-1})$$
$$\hat h_t = \tanh(W x_t + U (r_t \odot h_{t-1})), \quad h_t = (1 - z_t) \odot \hat h_t + z_t \odot h_{t-1}$$

and the score of item $i$ as the next one is the product of a linear map of $h_t$ with the embedding of $i$
(the weights are tied: the same table is read at both ends).""",
    "SRGNN": r"""# SR-GNN

**Wu et al. 2019**, *Session-based Recommendation with Graph Neural Networks*, AAAI.

The session becomes a graph: its items are the nodes, "was followed by" the edges. A gated graph network
passes messages along incoming and outgoing edges (eq. 1-5),

$$a_i = [A^{in}_i; A^{out}_i]\,(H W + b), \qquad v_i \leftarrow \mathrm{GRU}(a_i, v_i)$$

and soft attention with the last item as query sums the nodes up (eq. 6-7):

$$\alpha_i = q^\top \sigma(W_1 v_n + W_2 v_i + c), \quad s_g = \sum_i \alpha_i v_i, \quad s_h = W_3 [v_n; s_g].$$

Step $t$ uses the graph of the prefix $1..t$ alone: a graph of the whole session would show it its own target.""",
    "NARM": r"""# NARM

**Li et al. 2017**, *Neural Attentive Session-based Recommendation*, CIKM.

Two readings of the same GRU states $h_1..h_t$: the global encoder is the last one, the local encoder a sum of
all of them, weighted by how well each matches the last (eq. 7-8),

$$c_g = h_t, \qquad c_l = \sum_{j \le t} \alpha_{tj} h_j, \quad \alpha_{tj} = v^\top \sigma(A_1 h_t + A_2 h_j)$$

and a bilinear decoder scores item $i$ (eq. 10): $\;S_i = emb_i^\top B\,[c_g; c_l]$.

The report believed that this cannot be trained on shifted targets. It can: with the sum over $j \le t$ one pass
gives an output after every step, each equal to the model run on that prefix.""",
    "GRUwATT": r"""# GRUwATT

**The report's own model**: GRU4REC plus attention, without the sum of NARM's local encoder, so that every step
keeps an output of its own.

$$\alpha_t = v^\top \sigma(A_1 h_t + A_2 h_t), \qquad c_t = \alpha_t h_t, \qquad s_t = W [h_t; c_t] + b$$

The attention is a gate on each step's state. Summing $\alpha_{tj} h_j$ over $j \le t$ instead gives NARM (a test
shows it with shared weights). The report's query was the session's *last* state: then step $t$ sees the items after
it, its own target among them. `causal=False` keeps that form to reproduce the report's numbers, nothing else.""",
    "GGNNwATT": r"""# GGNNwATT

**The report's own model**: SR-GNN's gated graph with attention that gates each step instead of summing.

$$\alpha_t = q^\top \sigma(W_1 v_t + W_2 v_t + c), \qquad s_t = W_3 [v_t; \alpha_t v_t]$$

with $v_t$ the last item's node in the graph of the prefix $1..t$. Summing $\alpha_{ti} v_i$ over $i \le t$ instead
gives SR-GNN (a test shows it with shared weights). The report built one graph of the whole session: along its
outgoing edges step $t$ sees item $t+1$, its own target. `causal=False` keeps that form to reproduce the report's
numbers, nothing else.""",
}

MINUTES = {"GRU4REC": 66, "SRGNN": 32, "NARM": 20, "GRUwATT": 60, "GGNNwATT": 38}

PICTURES = {
    "GRU4REC": """plots.draw_model("GRU4REC",
                 ["session\\n$x_1 .. x_t$", "embedding", "GRU", "linear", "scores of\\nall items"],
                 {2: "state $h_t$", 3: "back to embedding width", 4: "product with the embedding"});""",
    "SRGNN": """plots.draw_model("SR-GNN", ["session\\n$x_1 .. x_t$", "graph\\nget_slice", "gated graph\\nnetwork",
                            "attention,\\nsummed", "$W_3 [s_l; s_g]$", "scores of\\nall items"],
                 {1: "items, A, alias", 2: "node vectors $v_i$", 3: "query: last item"});""",
    "NARM": """plots.draw_model("NARM",
                 ["session\\n$x_1 .. x_t$", "embedding", "GRU", "attention,\\nsummed over $j \\\\leq t$",
                  "$B\\\\,[c_g; c_l]$", "scores of\\nall items"],
                 {2: "states $h_1 .. h_t$", 3: "local encoder $c_l$", 4: "global $c_g = h_t$"});""",
    "GRUwATT": """plots.draw_model("GRUwATT", ["session\\n$x_1 .. x_t$", "embedding", "GRU", "gate\\n$\\\\alpha_t h_t$",
                             "$W [h_t; c_t]$", "scores of\\nall items"],
                 {2: "state $h_t$", 3: "one weight a step", 5: "product with the embedding"});""",
    "GGNNwATT": """plots.draw_model("GGNNwATT", ["session\\n$x_1 .. x_t$", "graph\\nget_slice", "gated graph\\nnetwork",
                              "gate\\n$\\\\alpha_t v_t$", "$W_3 [v_t; c_t]$", "scores of\\nall items"],
                 {1: "of the prefix 1..t", 2: "node vectors $v_i$", 3: "one weight a step"});""",
}

GRAPH_BATCH = [
    "For this model a batch is also a graph a row. `items` are the nodes, `alias_inputs` says which node each step is,"
    " and `A` holds the normalised incoming and outgoing edges:",
    """graph = get_slice(batch.x[:1])
for name, value in graph._asdict().items():
    print(f"{name} {tuple(value.shape)}")
    print(value[0].numpy(), "\\n")""",
]

DRAW_GRAPH = [
    "## One session's graph\n\nThe longest of the test sessions, drawn from what `get_slice` returns: an arrow for"
    " each edge, with its weight among the outgoing ones.",
    """row = int(dataset.test.lengths.argmax())
x = torch.as_tensor(data.vocabulary.encode(dataset.test[row]))[None]
graph = get_slice(x)
nodes = [int(data.vocabulary.decode(i)) if i else 0 for i in graph.items[0].numpy()]
plots.plot_session_graph(nodes, graph.A[0].numpy(), graph.alias_inputs[0].tolist());""",
]

ATTENTION = {
    "NARM": [
        "## Where it looks\n\nAttention weights $\\alpha_{tj}$ of the longest of the test sessions: a row is a step $t$, a"
        " column an item $j \\le t$. NARM does not normalise them, so a row need not sum to 1.",
        """row = int(dataset.test.lengths.argmax())
x = torch.as_tensor(data.vocabulary.encode(dataset.test[row]), device=device)[None]
model.eval()
with torch.inference_mode():
    h, _ = model.gru(model.embed(x))
    weights = model.attention_weights(h)[0].cpu().numpy()
steps = [f"after step {t + 1}" for t in range(len(weights))]
plots.plot_attention(weights, dataset.test[row], step_names=steps);""",
    ],
    "GRUwATT": [
        "## Where it looks\n\nThe gate $\\alpha_t$ of each step of the longest of the test sessions: one weight a step,"
        " since nothing is summed.",
        """row = int(dataset.test.lengths.argmax())
x = torch.as_tensor(data.vocabulary.encode(dataset.test[row]), device=device)[None]
model.eval()
with torch.inference_mode():
    h, _ = model.gru(model.embed(x))
    weights = model.attention_weights(h, x)[0].cpu().numpy()
plots.plot_attention(weights, dataset.test[row], step_names=["gate"]);""",
    ],
}

TRIALS_INTRO = (
    "## The report's trials, beside ours\n\nThe report split its prefix rows at random, so that shifted training holds"
    " many of the validation rows word for word (see the leak rates above). The next cells repeat that on purpose"
    ' (`split="row"`, `recipe="report"`, {setup}).'
)
REMEMBERS = " These numbers say how much a model remembers, not how well it recommends."

GRU4REC_TRIALS = [
    TRIALS_INTRO.format(setup="shifted targets") + REMEMBERS,
    """trials = {}
for lr, batch_size, dropout in report.GRU4REC_TRIALS:
    fit = {"lr": lr, "batch_size": batch_size}
    trials[f"lr {lr:g}, batch {batch_size}, dropout {dropout:g}"] = train_model(
        dataset, MODEL, recipe="report", split="row", epochs=TRIAL_EPOCHS,
        changes={"fit": fit, "model": {"dropout": dropout}})""",
    "The report's table (200 epochs), and the same settings run here, stopped after ten epochs without a better MRR@20:",
    """columns = ["MRR@20", "HR@20", "accuracy"]
ours = pd.DataFrame({name: run.metrics["valid"] for name, run in trials.items()}).T[columns]
theirs = pd.DataFrame(list(report.GRU4REC_TRIALS.values()), index=ours.index, columns=columns)
pd.concat({"report": theirs, "ours": ours}, axis=1).round(3)""",
    "The report says that with and without dropout the curves end alike; ours:",
    "plots.plot_trials({name: run.table for name, run in trials.items()});",
    "One GRU layer against two, under the report's protocol and, honestly, by users:",
    """layers = {}
for split, recipe in (("row", "report"), ("user", RECIPE)):
    for n in (1, 2):
        epochs = TRIAL_EPOCHS if split == "row" else EPOCHS
        run = train_model(dataset, MODEL, recipe=recipe, split=split, epochs=epochs,
                          changes={"model": {"layers": n}})
        layers[f"{split} split, {recipe} recipe, {n} layer{'s' * (n > 1)}"] = run.metrics["valid"]
pd.DataFrame(layers).T[["HR@20", "MRR@20", "accuracy"]].round(4)""",
    "### The leak, in one cell\n\nShare of validation pairs (session, next item) that shifted training contains word for"
    " word from the same user, and the hit rate on those rows and on the others: what a headline such as the"
    " report's 50 % is made of.",
    """run = next(iter(trials.values()))
leaked = leaked_rows(run.data.train, run.data.valid)
hits = run.ranks["valid"] <= 20
pd.DataFrame({"share of rows": [leaked.mean(), 1 - leaked.mean(), 1.0],
              "HR@20": [hits[leaked].mean(), hits[~leaked].mean(), hits.mean()]},
             index=["trained word for word", "not", "together (the report's number)"]).round(3)""",
]


def _other_trials(model: str, setup: str) -> list[str]:
    return [
        TRIALS_INTRO.format(setup=setup) + REMEMBERS * (model == "GRUwATT"),
        """trial = train_model(dataset, MODEL, recipe="report", split="row", epochs=TRIAL_EPOCHS,
                    changes={"fit": {"patience": None}})""",
        "The epochs the report printed, and ours at the same epochs:",
        """columns = ["MRR@20", "HR@20", "accuracy"]
printed = report.PRINTED_EPOCHS[MODEL]
theirs = pd.DataFrame.from_dict(printed, "index", columns=columns)
ours = trial.table.set_index("epoch")[columns].reindex([*printed, trial.table["epoch"].iloc[-1]])
both = {"report": theirs, "ours": ours[~ours.index.duplicated()]}
pd.concat(both, axis=1).rename_axis("epoch").round(4)""",
        "By epoch, the report's printed values as crosses:",
        "plots.plot_trials({MODEL: trial.table}, report.PRINTED_EPOCHS[MODEL]);",
    ]


TRIALS = {
    "GRU4REC": GRU4REC_TRIALS,
    "SRGNN": _other_trials("SRGNN", "the last label alone"),
    "NARM": _other_trials("NARM", "the last label alone"),
    "GRUwATT": _other_trials("GRUwATT", "shifted targets, `causal=False`: each step sees its own target"),
    "GGNNwATT": _other_trials("GGNNwATT", "shifted targets, `causal=False`: each step sees its own target"),
}
TRIAL_EPOCHS = {"GRU4REC": 200, "SRGNN": 80, "NARM": 100, "GRUwATT": 200, "GGNNwATT": 100}

# --------------------------------------------------------------------------------------------------
# What the five share, word for word

SETUP = [
    "## Setup\n\nThe modules live one folder up; the data are fetched where they are missing. A GPU is used where there"
    " is one.",
    """%matplotlib inline
import inspect
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import Code, display

"""
    + IMPORT_PATH,
    "The collection's own modules:",
    """import plots
import report
from checkpoint import load_checkpoint
from metrics import summarize_groups
from models import MODELS, build_model
from process_data import REPORT_PRESET, TrainDataset, get_dataloader, get_slice, leak_rate, leaked_rows
from process_data import load_datasets, prepare, split_sessions
from recommend import evaluate, recommend
from train import device_name, load_recipe, pick_device, train_model

device = pick_device()
print(device_name(device))""",
]

DATA = [
    "## Data\n\nThe rows are split by user: a user's rows are prefixes of one another, and must not be parted.",
    """(dataset,) = load_datasets([DATASET])
data = prepare(dataset)
facts = {part: {"sessions": len(rows), "users": len(set(rows.users)),
                "mean length": rows.lengths.mean(), "labels known": (rows.labels > 0).mean()}
         for part, rows in (("train", data.train), ("validation", data.valid), ("test", data.test))}
print(f"{dataset.name}: {data.n_items:,} items, {len(dataset.test):,} sessions in the test file")
pd.DataFrame(facts).T.round(3)""",
    "How much of the validation part does training contain word for word? By user nothing from the same user; by row,"
    " as the report split, a good part of it:",
    """rates = {}
for split in ("user", "row"):
    parts = prepare(dataset, split=split, **REPORT_PRESET)
    rates[f"split by {split}"] = leak_rate(parts.train, parts.valid)
pd.DataFrame(rates, index=["from the same user", "from any user"]).T.round(3)""",
    "One batch: `x` are the sessions, padded with 0, `y` the next item of each step, `w` how many rows contain that step"
    " (the prefix rows of a user are folded into one).",
    """train_rows = TrainDataset(data.train, weights="rows")
batch = next(iter(get_dataloader(train_rows, batch_size=4, seed=5)))
for name, value in batch._asdict().items():
    print(name)
    print(value.numpy(), "\\n")""",
]

MODEL = [
    "## Model\n\nIts whole definition, from `models/`:",
    'Code(inspect.getsource(inspect.getmodule(MODELS[MODEL])), language="python")',
    "The hyperparameters, from `recipes.toml`, and the size they give. `neighbours`: while it trains, an item's"
    " embedding takes over this share of its neighbours' (`models/item_graph.py`), the items up to five"
    " places from it in a training session; the sums are the weights that stay.",
    """recipe = load_recipe(RECIPE, MODEL, dataset.short_name)
size = sum(p.numel() for p in build_model(MODEL, n_items=data.n_items, **recipe["model"]).parameters())
print(f"{size:,} parameters")
named = {f"{kind}.{key}": value for kind in recipe for key, value in recipe[kind].items()}
pd.Series(named).to_frame(RECIPE)""",
]

TRAINING = [
    "## Training\n\nOne run a seed: all epochs run, and the one best on validation (MRR@20) is kept. The test part is not looked at until the end.",
    """runs = {}
for seed in SEEDS:
    runs[seed] = train_model(dataset, MODEL, recipe=RECIPE, epochs=EPOCHS, seed=seed)
    table = runs[seed].table
    print(f"seed {seed}: best epoch {runs[seed].header['epochs']} of {len(table)}, "
          f"{table['seconds'].sum():.0f} s on {device_name(device)}")""",
    "Train loss falls on; validation says which epoch to keep:",
    'plots.plot_training({f"seed {s}": run.table for s, run in runs.items()}, f"{MODEL} on {dataset.name}");',
]

EVALUATION = [
    "## Evaluation\n\nEvery prefix of a held-out user is a query, the whole catalogue is ranked, ties count against"
    " the model. Mean and standard deviation over the seeds:",
    """names = ["HR@5", "HR@20", "MRR@5", "MRR@20", "accuracy"]
results = pd.concat({part: pd.DataFrame({s: run.metrics[part] for s, run in runs.items()}).T[names]
                     for part in ("valid", "test")}, names=["part", "seed"])
mean, spread = results.groupby("part").mean(), results.groupby("part").std()
print(f"{dataset.name}, user split (split seed 0), seeds {SEEDS}, {device_name(device)}")
pd.concat({"mean": mean, "spread": spread}, axis=1).round(4)""",
    "Test part by session length:",
    """test = data.test
by_length = [summarize_groups(run.ranks["test"], test.lengths) for run in runs.values()]
display((sum(by_length) / len(by_length)).astype({"queries": int}).round(4))
plots.plot_by_length({seed: run.ranks["test"] for seed, run in runs.items()}, test.lengths, test.users);""",
]

EXAMPLES = [
    "## What it recommends\n\nA few sessions of the test file and the first five of the top 20 (raw item ids; the data"
    " name no items):",
    """run = runs[SEEDS[0]]
model = run.model
first_rows = np.unique(dataset.test.lengths, return_index=True)[1]
sessions = [dataset.test[row] for row in first_rows]
found = recommend(run.checkpoint(), sessions, k=20)
pd.DataFrame({"session": sessions, "first five of 20": found.items[:, :5].tolist(),
              "their scores": found.scores[:, :5].round(2).tolist()})""",
]

SAVING = [
    "## Saving\n\nOne file: weights, item ids, popularity, and a header that rebuilds the model. Read back, it ranks the"
    " same. (The committed models in `pretrained_model/` are trained on all rows.)",
    """run = runs[SEEDS[0]]
path = Path("../checkpoints") / dataset.short_name / f"{MODEL}.user_split.safetensors"
run.save(path)
loaded = load_checkpoint(path)
again = evaluate(loaded, split_sessions(dataset.train).test)
assert (again.ranks == run.ranks["test"]).all()
size = path.stat().st_size / 2**20
print(f"{path.as_posix()}: {size:.1f} MiB, test MRR@20 {again.metrics['MRR@20']:.4f} again")""",
]


def model_notebook(model: str):
    """The notebook of one model, without outputs."""
    parameters = (
        f'MODEL = "{model}"\n'
        'DATASET = "Amazon_Beauty"  # or "Amazon_Cell", "Demo", or the folder of your own\n'
        'RECIPE = "best"  # of recipes.toml\n'
        "EPOCHS = None  # None: the recipe's\n"
        "SEEDS = [0, 1, 2]\n"
        f"TRIAL_EPOCHS = {TRIAL_EPOCHS[model]}  # of the report's trials, at the end"
    )
    title = TITLES[model] + (
        f"\n\nWhat is shown took {MINUTES[model]} minutes on one CPU core, most of it for the report's trials at the end."
    )
    is_graph = model in ("SRGNN", "GGNNwATT")
    texts = [title, "", *SETUP, "From a session to the scores of all items:", PICTURES[model]]
    texts += ["## Parameters", parameters, *DATA]
    texts += GRAPH_BATCH if is_graph else []
    texts += [*MODEL, *TRAINING, *EVALUATION, *EXAMPLES]
    texts += DRAW_GRAPH if is_graph else []
    texts += ATTENTION.get(model, [])
    return _notebook([*texts, *TRIALS[model], *SAVING])


FINAL = [
    """# Final results

The report's two final models and an ensemble, trained on all rows: the one that validation prefers recommends 20
items for every session of the two test files. The test files have no labels, so how good the models are is said by
their twins: the same recipe, trained on 80 % of the users and measured on the others.

Expected time: under a minute with the committed checkpoints.""",
    """%matplotlib inline
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

"""
    + only_in("the collection's folder", "process_data.py"),
    "The collection's own modules:",
    """import plots
from checkpoint import load_checkpoint
from explorer import explore, show_session
from process_data import load_datasets, maximal_sessions, read_sessions
from recommend import evaluate, recommend, write_recommendations
from train import get_pretrained, pick_device""",
    "## Parameters",
    """DATASETS = ["Amazon_Beauty", "Amazon_Cell"]  # names, or folders of your own
MODELS = ["GRU4REC", "GRUwATT", "Ensemble"]
K = 20
EPOCHS = None  # of models that have to be trained first; None: the recipe's""",
    "## Data\n\nFetched where they are missing; where the server does not answer, the embedded Demo takes their place.",
    """datasets = {dataset.short_name: dataset for dataset in load_datasets(DATASETS)}
facts = {name: {"training rows": len(d.train), "users": d.train.users[-1] + 1,
                "test sessions": len(d.test), "of one item": int((d.test.lengths == 1).sum())}
         for name, d in datasets.items()}
pd.DataFrame(facts).T""",
    "## Models\n\nCommitted checkpoints where they were made from exactly these files; else they are trained now.",
    """device = pick_device()
checkpoints = {(name, model): load_checkpoint(get_pretrained(dataset, model, epochs=EPOCHS), device)
               for name, dataset in datasets.items() for model in MODELS}
measured = {key: c.header["metrics"] for key, c in checkpoints.items()}
twins = pd.DataFrame({key: m["twin_test"] for key, m in measured.items()}).T
twins.insert(0, "validation MRR@20", [m["twin_valid"]["MRR@20"] for m in measured.values()])
twins.rename_axis(["dataset", "model"]).round(4)""",
    "What an ensemble averages, with which weights, and what its members reach alone (validation chose the weights):",
    """members = pd.DataFrame([{"dataset": name, "model": m["model"], "weight": m["weight"],
                         "validation MRR@20": m["metrics"]["valid"]["MRR@20"]}
                        for (name, _), c in checkpoints.items() for m in c.header.get("members", [])])
members.round(4)""",
    "The twins on held-out users (test part of the user split, one seed):",
    """for name in datasets:
    figure = plots.plot_heldout({m: measured[name, m]["twin_test"] for m in MODELS})
    figure.suptitle(name)
    display(figure)
    plots.plt.close(figure)""",
    "Validation chooses the model that recommends, not the test part. An ensemble's weights were chosen there too, so its\n"
    "validation value is a little flattered; the test part above, which chose nothing, says whether it holds.",
    """chosen = {name: max(MODELS, key=lambda m: measured[name, m]["twin_valid"]["MRR@20"])
          for name in datasets}
for name, model in chosen.items():
    others = {m: f"{measured[name, m]['twin_valid']['MRR@20']:.4f}" for m in MODELS}
    print(f"{name}: {model}, whose validation MRR@20 is the highest of {others}")""",
    "## Recommend",
    """results = {}
for name, dataset in datasets.items():
    results[name] = recommend(checkpoints[name, chosen[name]], dataset.test, k=K)
    path = Path("results") / f"test_result_{name}.csv"
    write_recommendations(path, dataset.test, results[name])
    print(f"{path.as_posix()} by {chosen[name]}: {results[name]}")""",
    "The first rows of each file (the first five of the 20 items):",
    """for name in datasets:
    head = pd.read_csv(Path("results") / f"test_result_{name}.csv", nrows=5)
    head["predict"] = head["predict"].str.split(", ").str[:5].str.join(", ") + ", ..."
    display(head.style.set_caption(name))""",
    "How the recommendations spread over the catalogue:",
    """for name in datasets:
    checkpoint = checkpoints[name, chosen[name]]
    items = checkpoint.vocabulary.encode(results[name].items)
    share = len(np.unique(items)) / len(checkpoint.vocabulary)
    title = f"{name}: {share:.0%} of the items are recommended to somebody"
    figure = plots.plot_concentration(items, checkpoint.popularity, title=title)
    display(figure)
    plots.plt.close(figure)""",
    "## Explore\n\nPick a model and a session, or type them (ids with commas between, Enter); grey is what is shown"
    " now. The first picture is an example that stays when no kernel runs; the boxes below it live with one. (Attention"
    " weights are not normalised in these models, and may be negative.)",
    """name, dataset = next(iter(datasets.items()))
examples = [dataset.test[row] for row in np.unique(dataset.test.lengths, return_index=True)[1]]
model = "GRUwATT" if "GRUwATT" in MODELS else MODELS[0]  # it has an attention to show
example = show_session(f"{name}, {model}", checkpoints[name, model], examples[-1], K)
display(example)
plots.plt.close(example)
explore({m: checkpoints[name, m] for m in MODELS}, maximal_sessions(dataset.train)[0], examples, K)""",
    "## Checks\n\nRead back from the files: as many rows as the test file, in its order, `K` distinct items, none of the"
    " session's own.",
    """for name, dataset in datasets.items():
    written = pd.read_csv(Path("results") / f"test_result_{name}.csv")
    sessions = read_sessions(Path("results") / f"test_result_{name}.csv", labels=False)
    items = np.array([cell.strip("[]").split(", ") for cell in written["predict"]], dtype=np.int64)
    assert len(written) == len(dataset.test) and list(written.columns) == ["session", "predict"]
    assert (sessions.items == dataset.test.items).all()
    assert (sessions.offsets == dataset.test.offsets).all()
    assert items.shape == (len(written), K) and (np.diff(np.sort(items), axis=1) > 0).all()
    assert not (items[dataset.test.row_of_item] == dataset.test.items[:, None]).any()
    print(f"{name}: {len(written):,} rows, in order, {K} distinct items each, none of the session's")""",
    "Where the test file does have labels (the Demo's does), the whole way can be measured:",
    """for name, dataset in datasets.items():
    if dataset.test.labels is not None:
        found = evaluate(checkpoints[name, chosen[name]], dataset.test)
        display(pd.Series(found.metrics, name=name).round(4).to_frame())
    else:
        print(f"{name}: no labels in the test file")""",
]


def _notebook(texts: list[str]):
    """Cells from texts that alternate, Markdown and code; an empty one makes no cell."""
    notebook = new_notebook()
    for i, text in enumerate(texts):
        if not text:
            continue
        cell = new_code_cell(text) if i % 2 else new_markdown_cell(text)
        cell["id"] = f"cell-{i}"
        if text.startswith(("MODEL = ", "DATASETS = ")):
            cell["metadata"]["tags"] = ["parameters"]
        notebook.cells.append(cell)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def notebooks() -> dict[Path, object]:
    """Path -> notebook, for all that this file writes."""
    order = ("GRU4REC", "SRGNN", "NARM", "GRUwATT", "GGNNwATT")
    made = {HERE / f"{i}_{model}.ipynb": model_notebook(model) for i, model in enumerate(order)}
    made |= {HERE / "5_comparison.ipynb": _notebook(COMPARISON), HERE / "6_tuning.ipynb": _notebook(TUNING)}
    return made | {ROOT / "get_final_result.ipynb": _notebook(FINAL)}


def strip_run_marks(notebook) -> None:
    """Remove what says only where and when it ran, and the live progress bars, which are blank when read."""
    notebook.metadata = {key: notebook.metadata[key] for key in ("kernelspec", "language_info")}
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {"tags": tags} if (tags := cell.metadata.get("tags")) else {}
        if cell.cell_type == "code":
            cell.outputs = [
                output
                for output in cell.outputs
                if "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--execute", action="store_true", help="run them too, as their readers would")
    parser.add_argument("--only", help="part of a file name")
    args = parser.parse_args()
    for path, notebook in notebooks().items():
        if args.only and args.only not in path.name:
            continue
        if args.execute:
            papermill_input = path.with_name(f".{path.name}")
            nbformat.write(notebook, papermill_input)
            try:
                notebook = papermill.execute_notebook(papermill_input, None, cwd=path.parent)
            finally:
                papermill_input.unlink()
            strip_run_marks(notebook)
        nbformat.write(notebook, path)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
