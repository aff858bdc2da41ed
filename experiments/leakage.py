"""Leakage: the share of validation rows that shifted training also contains.

A user's rows are prefixes of one another: `[a]->b`, `[a, b]->c`, `[a, b, c]->d`. Training on shifted sequences
(`TrainDataset`) turns the last row into all three pairs. With a row split, many validation pairs are therefore
trained on.

Shapes: R rows, L longest session, P trained pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dataset.options import checked
from dataset.sessions import check_columns
from dataset.users import mix_hashes
from process_data import Sessions


class LeakRate(NamedTuple):
    same_user: float
    any_user: float


@checked
def leak_rate(train: Sessions, validation: Sessions) -> LeakRate:
    """Share of the validation pairs (session, label) that shifted training contains.

    same_user: the pair comes from training rows of the same user. This is the leak. any_user: the pair comes from
    rows of any user; some pairs are common to independent users.
    """
    if not len(validation):
        return LeakRate(0.0, 0.0)
    any_user = np.isin(_row_hashes(validation), _trained_pairs(train)[0])
    return LeakRate(float(leaked_rows(train, validation).mean()), float(any_user.mean()))


@checked
def leaked_rows(train: Sessions, validation: Sessions) -> np.ndarray:
    """(R,) bool: whether the training rows of the same user contain the validation pair."""
    pairs, users = _trained_pairs(train)
    check_columns(validation, "users")
    return np.isin(mix_hashes(_row_hashes(validation), validation.users), mix_hashes(pairs, users))


def _trained_pairs(sessions: Sessions) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (P,) of every pair that shifted training contains, and their users (P,)."""
    check_columns(sessions, "users")
    hashes, exists = _prefix_hashes(sessions)
    rows, steps = np.nonzero(exists[:, 1:])  # a pair has at least two items
    return hashes[rows, steps + 1], sessions.users[rows]


def _row_hashes(sessions: Sessions) -> np.ndarray:
    """(R,) the hash of each row's session and label."""
    return _prefix_hashes(sessions)[0][np.arange(len(sessions)), sessions.lengths]


def _prefix_hashes(sessions: Sessions) -> tuple[np.ndarray, np.ndarray]:
    """64-bit hashes of session + label up to each item (R, L + 1), and a mask (R, L + 1) of those that exist."""
    sequences = sessions.with_labels_appended()
    exists = np.arange(sequences.lengths.max(initial=1)) < sequences.lengths[:, None]
    hashes = np.zeros(exists.shape, np.uint64)
    state = np.zeros(len(sessions), np.uint64)
    for step, column in enumerate(sequences.padded().T):
        hashes[:, step] = state = mix_hashes(state, column + 1)
    return hashes, exists
