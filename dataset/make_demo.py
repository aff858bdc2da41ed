"""Demo: a synthetic dataset in the format of the Amazon ones, for trying everything offline.

    python dataset/make_demo.py [FOLDER]

An item has a few preferred successors, mostly in its own category, and most steps of a session go
to one of them; the others follow popularity. So the last item says much about the next one, and
popularity alone says little. Users and session lengths are distributed like Beauty's.
"""

import csv
import sys
from bisect import bisect
from itertools import accumulate
from pathlib import Path
from random import Random

ITEMS = 800  # numbered by popularity; item i belongs to category i % CATEGORIES
CATEGORIES = 20
RAW_IDS = 3000  # raw ids lie below it, so they have gaps
TRAIN_USERS = 3000
TEST_USERS = 600
# Beauty's users by their number of training rows, its test sessions by length; both from 1 to 5.
TRAIN_ROWS = (15884, 5923, 2876, 1286, 1759)
TEST_LENGTHS = (2920, 1364, 534, 249, 326)

# Zipf with an offset: without one, 20 of so few items would make up half of all sessions.
POPULARITY = [1 / (rank + 50) for rank in range(1, ITEMS + 1)]
SUCCESSORS = (4, 2, 1)  # how often each of an item's successors is preferred to the others
LEAVE_CATEGORY = 0.15  # share of the successors that are drawn from all items
STEPS = (60, 25, 15)  # to a successor, something popular in the category, anything popular


def make_demo(folder, seed=2026):
    """Write `train_sessions.csv` and `test_sessions.csv`, the same bytes for the same seed.

    Only `Random.random` is drawn from: Python promises its numbers for every later version, as it
    does for no other method, and as NumPy does for none.
    """
    random = Random(seed)
    raw_ids = [0, *sorted(range(1, RAW_IDS), key=lambda _: random.random())[: ITEMS - 1]]
    successors = [_choose_successors(item, random) for item in range(ITEMS)]

    train, test = [], []
    for _ in range(TRAIN_USERS):
        items = _walk(_draw(TRAIN_ROWS, random) + 2, successors, random)
        train += [(items[:end], items[end]) for end in range(1, len(items))]
    for _ in range(TEST_USERS):
        *session, label = _walk(_draw(TEST_LENGTHS, random) + 2, successors, random)
        test.append((session, label))

    Path(folder).mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", train), ("test", test)):
        with open(Path(folder) / f"{part}_sessions.csv", "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("session", "label"))
            for session, label in rows:
                writer.writerow(([raw_ids[item] for item in session], raw_ids[label]))


def _choose_successors(item, random):
    """Distinct items other than `item`, the most preferred first."""
    chosen = []
    while len(chosen) < len(SUCCESSORS):
        successor = int(random.random() * ITEMS)
        if random.random() >= LEAVE_CATEGORY:
            successor += item % CATEGORIES - successor % CATEGORIES
        if successor != item and successor not in chosen:
            chosen.append(successor)
    return chosen


def _walk(length, successors, random):
    """The distinct items of one user, in order."""
    items = [_draw(POPULARITY, random)]
    while len(items) < length:
        step = _draw(STEPS, random)
        if step == 0:
            item = successors[items[-1]][_draw(SUCCESSORS, random)]
        elif step == 1:
            category = items[-1] % CATEGORIES
            item = category + CATEGORIES * _draw(POPULARITY[category::CATEGORIES], random)
        else:
            item = _draw(POPULARITY, random)
        if item not in items:
            items.append(item)
    return items


def _draw(weights, random):
    """An index, with a probability proportional to its weight."""
    totals = list(accumulate(weights))
    return bisect(totals, random.random() * totals[-1])


if __name__ == "__main__":
    make_demo(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent / "Demo")
