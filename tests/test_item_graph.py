"""The graph of items, and embeddings smoothed over it: by hand, exactly, and gone when training ends."""

import numpy as np
import pytest
import torch
from torch import nn

from models.item_graph import REACH, item_graph, smoothed
from process_data import Sessions
from scoring import rank_labels
from train import train_model

SESSIONS = Sessions.from_lists([[1, 2], [2, 3, 1], [4]])


def test_graph_by_hand():
    # 1-2: next to each other, and two steps apart; 2-3 and 3-1 next to each other; 4 is alone, 5 nowhere.
    edges = np.zeros((6, 6))
    edges[1, 2], edges[2, 3], edges[1, 3] = 1 + 1 / 2, 1, 1
    edges += edges.T
    degree = np.array([1, 2.5, 2.5, 2, 1, 1])
    graph = item_graph(SESSIONS, 5)
    assert graph.toarray() == pytest.approx(edges / np.sqrt(np.outer(degree, degree)))
    assert (graph != graph.T).nnz == 0


def test_an_item_is_no_neighbour_of_its_own_nor_of_one_far_away():
    graph = item_graph(Sessions.from_lists([[1, 1, *range(2, 2 + REACH)]]), 10).toarray()
    assert not graph.diagonal().any() and not graph[0].any() and not graph[:, 0].any()
    assert graph[1, 1 + REACH] > 0 and graph[2, 1 + REACH] > 0
    far = item_graph(Sessions.from_lists([[1, *range(2, 3 + REACH)]]), 10).toarray()
    assert far[1, 1 + REACH] > 0 and far[1, 2 + REACH] == 0
    assert not item_graph(Sessions.from_lists([[1], [2]]), 2).toarray().any()


def test_smoothing_and_its_gradient_equal_dense_matrices():
    embedding = nn.Embedding(6, 3, padding_idx=0)
    table = embedding.weight.detach().clone().requires_grad_()
    dense = torch.as_tensor(item_graph(SESSIONS, 5).toarray(), dtype=torch.float)
    x, y = torch.tensor([[1, 2, 5, 0]]), torch.randn(1, 4, 3)
    want = table + 0.7 * dense @ table
    (want[x] * y).sum().backward()
    with smoothed(embedding, item_graph(SESSIONS, 5), 0.7):
        (original,) = embedding.parameters()
        got = embedding(x)
        (got * y).sum().backward()
        assert torch.equal(original.detach(), table.detach())  # what is trained stays what it was
    torch.testing.assert_close(got, want[x])
    seen = table.grad.clone()
    torch.testing.assert_close(original.grad[1:], seen[1:])
    # Afterwards the smoothed table is the embedding, under its own name.
    assert list(embedding.state_dict()) == ["weight"]
    torch.testing.assert_close(embedding.weight.detach(), want.detach())
    assert not embedding.weight[0].any()


def test_the_graph_is_gone_even_after_an_error():
    embedding = nn.Embedding(6, 3, padding_idx=0)
    with pytest.raises(KeyboardInterrupt), smoothed(embedding, item_graph(SESSIONS, 5), 1.0):
        raise KeyboardInterrupt
    assert list(embedding.state_dict()) == ["weight"] and type(embedding) is nn.Embedding
    with smoothed(embedding, None, 0.0):
        assert type(embedding) is nn.Embedding


def test_a_trained_model_ranks_as_its_best_epoch_did():
    run = train_model("Demo", "GRU4REC", epochs=3, changes={"fit": {"neighbours": 0.8}}, progress=False)
    assert list(run.model.state_dict())[0] == "embedding.weight"
    best = run.table["MRR@20"].max()
    assert run.metrics["valid"]["MRR@20"] == pytest.approx(best, abs=1e-12)
    again = rank_labels(run.model, run.data.valid, run.data.popularity, mask_seen=run.header["mask_seen"])
    assert np.array_equal(again, run.ranks["valid"])


@pytest.mark.parametrize("model", ["SRGNN", "SASRec"])
def test_neighbours_change_what_is_learned(model):
    options = {"epochs": 1, "progress": False, "parts": ["valid"]}
    plain, with_neighbours = (
        train_model("Demo", model, changes={"fit": {"neighbours": share}}, **options) for share in (0.0, 1.0)
    )
    assert plain.table["loss"].item() != with_neighbours.table["loss"].item()
    assert with_neighbours.metrics["valid"]["MRR@20"] > 0
