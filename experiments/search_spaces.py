"""The hyperparameter values that `experiments.tune` searches: recipe key ("section.key") -> distribution."""

from __future__ import annotations

from optuna.distributions import CategoricalDistribution as Choice
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int

from models import NEURAL_MODELS
from models.baselines.VSKNN import POSITION, SHARED

Space = dict[str, Float | Int | Choice]

# The same ranges for every neural model.
NEURAL_SPACE: Space = {
    "model.dropout": Float(0.1, 0.6),
    "model.hidden_dropout": Float(0.1, 0.6),
    "model.scale": Float(8.0, 18.0),
    "fit.lr": Float(2e-3, 1.2e-2, log=True),
    "fit.weight_decay": Float(1e-8, 1e-5, log=True),
}
CO_OCCURRENCE_SPACE: Space = {
    "model.distance": Choice(["same", "div"]),
    "model.backward": Float(0.0, 1.0),
    "model.memory": Float(0.1, 1.0),
    "model.norm": Float(0.0, 1.0),
}
NEIGHBOUR_SPACE: Space = {"model.k": Int(50, 2000, log=True)}

SPACES: dict[str, Space] = {
    **dict.fromkeys(NEURAL_MODELS, NEURAL_SPACE),
    "SRGNN": NEURAL_SPACE | {"model.graph_steps": Choice([1, 2])},
    "GGNNwATT": NEURAL_SPACE | {"model.graph_steps": Choice([1, 2])},
    "GRU4REC": NEURAL_SPACE | {"model.layers": Choice([1, 2])},
    "SASRec": NEURAL_SPACE | {"model.layers": Choice([1, 2]), "model.heads": Choice([1, 2, 4])},
    "CoOccurrence": CO_OCCURRENCE_SPACE,
    "RandomWalk": {"model.walk": Float(0.05, 5.0, log=True)} | CO_OCCURRENCE_SPACE,
    "SKNN": NEIGHBOUR_SPACE,
    "VSKNN": {
        **NEIGHBOUR_SPACE,
        "model.weighting": Choice(list(POSITION)),
        "model.weighting_score": Choice(list(SHARED)),
        "model.idf": Float(0.0, 10.0),
    },
    "STAN": {
        **NEIGHBOUR_SPACE,
        "model.lambda_spw": Float(0.2, 8.0, log=True),
        "model.lambda_inh": Float(0.2, 8.0, log=True),
    },
    "SLIST": {
        "model.alpha": Float(0.0, 1.0),
        "model.direction": Choice(["sr", "part"]),
        "model.reg": Float(1.0, 100.0, log=True),
        "model.train_weight": Float(0.25, 8.0, log=True),
        "model.predict_weight": Float(0.25, 8.0, log=True),
    },
}
