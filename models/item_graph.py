"""The item graph: two items are connected if a training session contains both.

Items without a common session can still be related through a third item. On Beauty, a quarter of the targets
share a training session with an item of the query; another quarter do not, but share one with a neighbour of such
an item (Cell: a fifth and a third). `RandomWalk` uses paths of two edges, and `sessionrec.smoothing` gives the
neural models the same information.

Shapes: n items (ids 1..n, 0 is padding).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array, diags_array

from dataset.options import checked
from dataset.sessions import Sessions, maximal_sessions
from models.baselines.base import following_items, one_hot

# Items that are further apart in a session get no edge.
REACH = 5


@checked
def item_graph(sessions: Sessions) -> csr_array:
    """Encoded training rows, or whole sessions -> the normalised adjacency matrix D^-1/2 A D^-1/2, (n + 1, n + 1).

    A_ij is the sum of 1 / distance over all pairs of steps with the items i and j; D contains the row sums of A
    (the normalisation of Kipf & Welling 2017, without self-loops). The matrix is symmetric, and the padding has no
    edges. Prefix rows (sessions with labels) are folded first.
    """
    if (n_items := sessions.n_items) is None:
        raise ValueError("item_graph takes encoded sessions: `data.train` of `data = prepare(dataset)`")
    if sessions.labels is not None:
        sessions, _ = maximal_sessions(sessions)
    weights = 1 / np.arange(1, REACH + 1)
    later = one_hot(sessions, n_items).T @ following_items(sessions, weights, n_items)
    adjacency = csr_array(later + later.T)
    adjacency.setdiag(0)
    adjacency.eliminate_zeros()
    degree = adjacency.sum(1)
    scale = diags_array(np.divide(1, np.sqrt(degree), out=np.zeros(n_items + 1), where=degree > 0))
    return csr_array(scale @ adjacency @ scale)
