"""The item graph, computed by hand."""

import numpy as np
import pytest

from models.item_graph import REACH, item_graph
from process_data import Sessions

SESSIONS = Sessions.from_lists([[1, 2], [2, 3, 1], [4]], n_items=5)


def test_graph_by_hand():
    # 1-2: adjacent in one session, two steps apart in another. 2-3, 3-1: adjacent. 4 is alone; 5 does not occur.
    edges = np.zeros((6, 6))
    edges[1, 2], edges[2, 3], edges[1, 3] = 1 + 1 / 2, 1, 1
    edges += edges.T
    degree = np.array([1, 2.5, 2.5, 2, 1, 1])
    graph = item_graph(SESSIONS)
    assert graph.toarray() == pytest.approx(edges / np.sqrt(np.outer(degree, degree)))
    assert (graph != graph.T).nnz == 0


def test_no_edges_to_itself_or_beyond_the_reach():
    graph = item_graph(Sessions.from_lists([[1, 1, *range(2, 2 + REACH)]], n_items=10)).toarray()
    assert not graph.diagonal().any() and not graph[0].any() and not graph[:, 0].any()
    assert graph[1, 1 + REACH] > 0 and graph[2, 1 + REACH] > 0
    far = item_graph(Sessions.from_lists([[1, *range(2, 3 + REACH)]], n_items=10)).toarray()
    assert far[1, 1 + REACH] > 0 and far[1, 2 + REACH] == 0
    assert not item_graph(Sessions.from_lists([[1], [2]], n_items=2)).toarray().any()


def test_prefix_rows_are_folded_first():
    rows = Sessions.from_lists([[1], [2], [2, 3], [4]], [2, 3, 1, 4], users=[0, 1, 1, 2], n_items=5)
    assert (item_graph(rows) != item_graph(SESSIONS)).nnz == 0
