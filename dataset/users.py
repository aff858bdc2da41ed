"""Find the users of prefix rows, whatever order the file has them in.

The rows of a user form a chain: a row's session plus its label is the session of the next row. `[1, 2, 3]->4`,
`[1, 2]->3` and `[1]->2` are one user. Rows are matched over the whole file by 64-bit hashes of their items, and
matches are verified item by item.

Shapes:   R rows, N items in all rows, U users.
Words:    a row's history is its session + its label.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from dataset.sessions import Sessions

# The files with published results (Beauty, Cell, Demo), see `order_by_items`: the fingerprint of their users -> the
# beginning of the SHA-256 of their order in the file. PUBLISHED_ORDERS has the orders, for rows in another order.
PUBLISHED = {
    "e5f86dbca7c310262ebab1ded43734b4f1560a980a2d1b8c6690f2d72fde57b3": "a349a463dc1923cb4c94fc2defc3242f",
    "0a19d564c9d8dbd82765ff33ca4d44cf93f0b27471c2aea82b26bf0f42d51607": "6503efab9fc488e198836bde2eb74a44",
    "058d06fd08441790f1862ca02257becb400ccaecbad67acdda9ffa2645ba618a": "890db8c7f96e03d647420e9374eccc99",
}
PUBLISHED_ORDERS = Path(__file__).with_name("published_orders.npz")
_BLOCK = 1 << 16  # rows that are compared at once, to bound the memory


def identify_users(sessions: Sessions) -> tuple[Sessions, int]:
    """The rows of a file with their users, and the number of rows whose user is uncertain (see `find_chains`).

    Sessions that have users already keep them, and get chains if a user has several.
    """
    chains, uncertain = find_chains(sessions)
    if sessions.users is None:
        return replace(sessions, users=number_users(sessions, chains)), uncertain
    several = chains.max(initial=-1) + 1 > len(np.unique(sessions.users))
    return replace(sessions, chains=chains if several else None), 0


def find_users(sessions: Sessions) -> np.ndarray:
    """(R,) the user of each row, numbered by first appearance: its chain, see `find_chains`."""
    return find_chains(sessions)[0]


def find_chains(sessions: Sessions) -> tuple[np.ndarray, int]:
    """The chain of each row (R,), numbered by first appearance, and the number of rows whose chain is uncertain.

    A row continues at most one row, and at most one row continues it. If sessions have users, a row only continues
    a row of the same user.

    If no row is uncertain, there is only one way to form as few chains as possible, up to rows with equal items. So
    the order of the rows does not matter. A row is uncertain in two cases:

    - More rows continue a history than rows have it: `[1]->2`, `[1, 2]->3`, `[1, 2]->4`. The rows with the smallest
      labels continue it (again in any order), and each other one begins a chain.
    - The row before it is missing, but an earlier one exists: `[1]->2`, `[1, 2, 3]->4`. It begins a chain.
    """
    adjacent = _continues_previous_row(sessions)
    if (adjacent | (sessions.lengths < 2)).all():  # each row follows its own prefix, as in the Amazon files
        return np.cumsum(~adjacent) - 1, 0
    histories = _number_histories(sessions)
    parents, crowded = _find_parents(histories, sessions.labels, adjacent)
    uncertain = crowded | _has_gap_before(sessions, histories)
    roots = np.where(parents < 0, np.arange(len(parents)), parents)
    while (roots[roots] != roots).any():
        roots = roots[roots]
    return _number_by_first_appearance(roots), int(uncertain.sum())


def number_users(sessions: Sessions, chains: np.ndarray) -> np.ndarray:
    """(R,) the chains, renumbered by their items alone, so that a split by user does not depend on the rows' order.

    Users with more items come first, and equally many are ordered by a hash of the items. The files with published
    results (Beauty, Cell, Demo) are the exception: their rows are recognised in any order, and their users are
    numbered as in those files, because every saved result and checkpoint depends on that split.
    """
    fingerprint, order = order_by_items(sessions, chains)
    places = np.arange(len(order))
    if fingerprint in PUBLISHED:
        if hashlib.sha256(order.astype("<u2").tobytes()).hexdigest()[:32] == PUBLISHED[fingerprint]:
            return chains  # in the order of the published file
        with np.load(PUBLISHED_ORDERS) as orders:
            places = orders[fingerprint]
    number_of_chain = np.empty(len(order), np.int64)
    number_of_chain[order] = places
    return number_of_chain[chains]


def order_by_items(sessions: Sessions, chains: np.ndarray) -> tuple[str, np.ndarray]:
    """The SHA-256 of all chains in any order, and the chains (U,) sorted by their length and a hash of their items.

    PUBLISHED_ORDERS holds the second by the first, for each file with published results.
    """
    order = np.lexsort((sessions.lengths, chains))
    last = np.r_[chains[order][1:] != chains[order][:-1], True][: len(order)]
    longest = order[last]
    histories = _hash_histories(replace(sessions, users=None), seed=0).histories[longest]
    hashes = mix_hashes(histories, np.bincount(chains))
    order = np.lexsort((hashes, -sessions.lengths[longest]))
    return hashlib.sha256(hashes[order].astype("<u8").tobytes()).hexdigest(), order


def mix_hashes(state: np.ndarray, value: np.ndarray) -> np.ndarray:
    """splitmix64 of state and value. Overflow is intended."""
    z = state * np.uint64(0x9E3779B97F4A7C15) + value.astype(np.uint64) + np.uint64(0x632BE59BD9B4E019)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


# --------------------------------------------------------------------------------------------------
# Matching rows


class _Hashes(NamedTuple):
    """prefixes (N,): each row's items up to this one. sessions (R,), histories (R,): all items, and with the label."""

    prefixes: np.ndarray
    sessions: np.ndarray
    histories: np.ndarray


class _Histories(NamedTuple):
    """sessions (R,), histories (R,): equal numbers 0..n-1 for equal items (of the same user), and their hashes."""

    sessions: np.ndarray
    histories: np.ndarray
    n: int
    hashes: _Hashes


def _hash_histories(sessions: Sessions, seed: int) -> _Hashes:
    """The hash of items is the sum of the hashes of (step, item), so that a prefix costs one subtraction."""
    starts, row = sessions.offsets[:-1], sessions.row_of_item
    seeds = np.full(1, seed, np.uint64)
    steps = mix_hashes(mix_hashes(seeds, np.arange(len(sessions.items)) - starts[row]), sessions.items)
    sums = np.r_[np.zeros(1, np.uint64), np.cumsum(steps, dtype=np.uint64)]
    users = np.zeros(len(sessions), np.int64) if sessions.users is None else sessions.users + 1
    base = mix_hashes(seeds, users) - sums[starts]
    whole = base + sums[sessions.offsets[1:]]
    histories = whole + mix_hashes(mix_hashes(seeds, sessions.lengths), sessions.labels)
    return _Hashes(base[row] + sums[1:], whole, histories)


def _number_histories(sessions: Sessions) -> _Histories:
    """Number the sessions and histories by their hashes; with another seed if two that differ have the same hash."""
    for seed in count():
        hashes = _hash_histories(sessions, seed)
        keys = np.r_[hashes.sessions, hashes.histories]
        distinct, first, number = np.unique(keys, return_index=True, return_inverse=True)
        if _are_equal(sessions, first[number]):
            break
    return _Histories(*np.split(number, 2), len(distinct), hashes)


def _are_equal(sessions: Sessions, other: np.ndarray) -> bool:
    """Whether each key (sessions, then histories: 2R) has the same items and user as the key `other` (2R,)."""
    n_rows, sequences = len(sessions), sessions.with_labels_appended()
    lengths = np.r_[sessions.lengths, sequences.lengths]
    keys = np.flatnonzero(other != np.arange(len(other)))
    users = np.zeros(n_rows, np.int64) if sessions.users is None else sessions.users
    for start in range(0, len(keys), _BLOCK):
        one = keys[start : start + _BLOCK]
        two = other[one]
        if (lengths[one] != lengths[two]).any() or (users[one % n_rows] != users[two % n_rows]).any():
            return False
        size = lengths[one]
        step = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        first, second = (np.repeat(sequences.offsets[key % n_rows], size) + step for key in (one, two))
        if (sequences.items[first] != sequences.items[second]).any():
            return False
    return True


def _find_parents(numbers: _Histories, labels: np.ndarray, adjacent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R,) the row that each row continues, or -1, and (R,) bool: whether more rows continue it than there are.

    The k-th row with a session, in the order of the labels, continues the k-th row whose history is this session.
    """
    # Of rows with equal items, those that continue the row before them come first; the sort is stable.
    order = np.lexsort((~adjacent, labels, numbers.sessions))
    session = numbers.sessions[order]
    counts = np.bincount(numbers.histories, minlength=numbers.n)
    children = np.bincount(session, minlength=numbers.n)
    k = np.arange(len(order)) - (np.cumsum(children) - children)[session]
    by_history = order[np.argsort(numbers.histories[order], kind="stable")]
    has_parent = k < counts[session]
    parents = np.full(len(order), -1)
    parents[order[has_parent]] = by_history[((np.cumsum(counts) - counts)[session] + k)[has_parent]]
    return parents, ((0 < counts) & (counts < children))[numbers.sessions]


def _has_gap_before(sessions: Sessions, numbers: _Histories) -> np.ndarray:
    """(R,) bool: no row has this session as its history, but a row has a part of it from the beginning."""
    missing = ~np.isin(numbers.sessions, numbers.histories)
    row = sessions.row_of_item
    inside = missing[row] & (np.arange(len(row)) > sessions.offsets[row])  # a history has at least two items
    gap = np.zeros(len(sessions), bool)
    gap[row[inside][np.isin(numbers.hashes.prefixes[inside], numbers.hashes.histories)]] = True
    return gap


def _continues_previous_row(sessions: Sessions) -> np.ndarray:
    """(R,) bool: whether the session is the previous row's session + label, and its user the same."""
    lengths, items, offsets = sessions.lengths, sessions.items, sessions.offsets
    continues = np.zeros(len(sessions), bool)
    continues[1:] = (lengths[1:] == lengths[:-1] + 1) & (items[offsets[2:] - 1] == sessions.labels[:-1])
    if sessions.users is not None:
        continues[1:] &= sessions.users[1:] == sessions.users[:-1]
    # Compare all but the last item of each candidate with the row before it.
    row = sessions.row_of_item
    step = np.arange(len(items)) - offsets[row]
    compare = continues[row] & (step < lengths[row] - 1)
    before = offsets[np.maximum(row - 1, 0)] + step
    differs = items[compare] != items[before[compare]]
    continues[row[compare][differs]] = False
    return continues


def _number_by_first_appearance(values: np.ndarray) -> np.ndarray:
    """(R,) 0, 1, 2, ... in the order in which the values first appear."""
    _, first, number = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[number]
