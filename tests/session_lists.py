"""Conversions between Sessions and Python lists."""

from process_data import Sessions


def as_lists(sessions):
    return [sessions[row] for row in range(len(sessions))]


def as_rows(sessions):
    """[(session, label), ...]"""
    return list(zip(as_lists(sessions), sessions.labels.tolist(), strict=True))


def prefix_rows(histories, n_items=None):
    """All prefix rows of each user's history: [a, b, c] gives [a]->b and [a, b]->c."""
    rows = [(h[:t], h[t], u) for u, h in enumerate(histories) for t in range(1, len(h))]
    return Sessions.from_lists(*map(list, zip(*rows, strict=True)), n_items=n_items)
