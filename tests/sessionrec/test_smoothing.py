"""Graph smoothing: its values and gradients, and its removal after training."""

import numpy as np
import pytest
import torch
from torch import nn

from models.item_graph import item_graph
from process_data import Sessions, load_dataset
from sessionrec.recipes import load_recipe
from sessionrec.run import run_recipe
from sessionrec.scoring import rank_labels
from sessionrec.smoothing import smoothed

SESSIONS = Sessions.from_lists([[1, 2], [2, 3, 1], [4]], n_items=5)


def test_smoothing_and_its_gradient_equal_dense_matrices():
    embedding = nn.Embedding(6, 3, padding_idx=0)
    table = embedding.weight.detach().clone().requires_grad_()
    dense = torch.as_tensor(item_graph(SESSIONS).toarray(), dtype=torch.float)
    x, y = torch.tensor([[1, 2, 5, 0]]), torch.randn(1, 4, 3)
    want = table + 0.7 * dense @ table
    (want[x] * y).sum().backward()
    with smoothed(embedding, item_graph(SESSIONS), 0.7):
        (original,) = embedding.parameters()
        got = embedding(x)
        (got * y).sum().backward()
        assert torch.equal(original.detach(), table.detach())  # the trained parameter is unchanged
    torch.testing.assert_close(got, want[x])
    seen = table.grad.clone()
    torch.testing.assert_close(original.grad[1:], seen[1:])
    # Afterwards the smoothed table is the embedding, under its original name.
    assert list(embedding.state_dict()) == ["weight"]
    torch.testing.assert_close(embedding.weight.detach(), want.detach())
    assert not embedding.weight[0].any()


def test_the_graph_is_removed_even_after_an_error():
    embedding = nn.Embedding(6, 3, padding_idx=0)
    with pytest.raises(KeyboardInterrupt), smoothed(embedding, item_graph(SESSIONS), 1.0):
        raise KeyboardInterrupt
    assert list(embedding.state_dict()) == ["weight"] and type(embedding) is nn.Embedding
    with smoothed(embedding, None, 0.0):
        assert type(embedding) is nn.Embedding


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(6, 3, padding_idx=0, sparse=True)
    with pytest.raises(ValueError, match="leave it out, or `lazy`"), smoothed(embedding, item_graph(SESSIONS), 1.0):
        pass
    with smoothed(embedding, None, 0.0):
        pass


def run(model, share, *, epochs=1, **options):
    changes = {"fit": {"epochs": epochs, "graph_smoothing": share}}
    return run_recipe(load_recipe("best", model, "demo").with_changes(changes), load_dataset("Demo"), **options)


def test_a_trained_model_ranks_as_its_best_epoch_did():
    trained = run("GRU4REC", 0.8, epochs=3)
    assert list(trained.model.state_dict())[0] == "embedding.weight"
    best = trained.history.table["MRR@20"].max()
    assert trained.metrics["valid"]["MRR@20"] == pytest.approx(best, abs=1e-12)
    assert np.array_equal(rank_labels(trained.model, trained.data.valid), trained.ranks["valid"])


@pytest.mark.parametrize("model", ["SRGNN", "SASRec"])
def test_smoothing_changes_the_learned_weights(model):
    plain, with_neighbours = (run(model, share, evaluate_on=["valid"]) for share in (0.0, 1.0))
    assert plain.history.table["loss"].item() != with_neighbours.history.table["loss"].item()
    assert with_neighbours.metrics["valid"]["MRR@20"] > 0
