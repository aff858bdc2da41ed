"""The share of an item's nearest items that occur with it in a session, by hand."""

import pytest
import torch

from experiments.embeddings import share_met
from process_data import Sessions


def test_share_of_near_items_by_hand():
    """The vectors of 1 and 2 are similar, and those of 3 and 4. The sessions contain the pairs 1, 2 and 2, 3."""
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    sessions = Sessions.from_lists([[1, 2], [2, 3], [4], [2, 1]])
    near, anybody = share_met(vectors, sessions, k=1)
    assert near == 0.5  # 1 and 2 are each other's nearest and were met; 3 and 4 were not
    assert anybody == pytest.approx(4 / 12)
