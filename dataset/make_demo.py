"""Generate Demo, a synthetic dataset in the format of the Amazon datasets that needs no download.

    python dataset/make_demo.py [FOLDER]
    python dataset/make_demo.py --log checkpoints/shop.csv    # the same users as a raw log of clicks

Each item has a few preferred successors, mostly in its own category. Most steps of a session go to one of
them, and the others follow popularity. The last item therefore predicts the next one well, and popularity
alone does not. The numbers of users and the session lengths are distributed as in Beauty.
"""

from __future__ import annotations

import argparse
import csv
import sys
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset.commands import describe  # noqa: E402
from dataset.files import replacing  # noqa: E402

ITEMS = 800  # sorted by popularity; item i belongs to category i % CATEGORIES
CATEGORIES = 20
RAW_IDS = 3000  # raw ids are drawn from 0..2999, so they have gaps
TRAIN_USERS = 3000
TEST_USERS = 600
# The number of Beauty's users with 1 to 5 training rows, and of its test sessions with 1 to 5 items.
TRAIN_ROWS = (15884, 5923, 2876, 1286, 1759)
TEST_LENGTHS = (2920, 1364, 534, 249, 326)

# Zipf's law with an offset. Without it, 20 of these few items would account for half of all interactions.
POPULARITY = [1 / (rank + 50) for rank in range(1, ITEMS + 1)]
SUCCESSORS = (4, 2, 1)  # weights of an item's successors
LEAVE_CATEGORY = 0.15  # share of the successors that are drawn from all categories
STEPS = (60, 25, 15)  # weights: to a successor, to a popular item of the category, to any popular item
START = 1_790_000_000  # earliest time in the log, in seconds since 1970


def make_demo(folder: str | Path, seed: int = 2026) -> None:
    """Write `train_sessions.csv` and `test_sessions.csv`. The same seed gives the same bytes."""
    raw_ids, train, test = _draw_users(seed)
    rows = {
        "train": [(items[:end], items[end]) for items in train for end in range(1, len(items))],
        "test": [(session, label) for *session, label in test],
    }
    for split, pairs in rows.items():
        with replacing(Path(folder) / f"{split}_sessions.csv") as part, open(part, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("session", "label"))
            writer.writerows(([raw_ids[item] for item in session], raw_ids[label]) for session, label in pairs)


def make_log(path: str | Path, seed: int = 2026) -> None:
    """Write all users as a raw log `user,item,timestamp`, sorted by time, with names instead of item ids.

    Each user starts at a random second of 30 days and clicks every one to five minutes.
    """
    raw_ids, train, test = _draw_users(seed)
    random = Random(seed)
    clicks = []
    for user, items in enumerate(train + test):
        time = START + int(random.random() * 30 * 86400)
        for item in items:
            clicks.append((time, f"user-{user:04}", f"category-{item % CATEGORIES:02}/item-{raw_ids[item]:04}"))
            time += 60 + int(random.random() * 240)
    with replacing(path) as part, open(part, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("user", "item", "timestamp"))
        writer.writerows((user, item, time) for time, user, item in sorted(clicks))


def _draw_users(seed: int) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """The raw id of each item, and the sequence of items of each training user and each test user.

    Only `Random.random` is used: it is the only method whose numbers Python guarantees for later versions,
    and NumPy guarantees none.
    """
    random = Random(seed)
    raw_ids = [0, *sorted(range(1, RAW_IDS), key=lambda _: random.random())[: ITEMS - 1]]
    successors = [_choose_successors(item, random) for item in range(ITEMS)]
    train = [_walk(_draw(TRAIN_ROWS, random) + 2, successors, random) for _ in range(TRAIN_USERS)]
    test = [_walk(_draw(TEST_LENGTHS, random) + 2, successors, random) for _ in range(TEST_USERS)]
    return raw_ids, train, test


def _choose_successors(item: int, random: Random) -> list[int]:
    """Distinct items other than `item`, the most preferred first."""
    chosen = []
    while len(chosen) < len(SUCCESSORS):
        successor = int(random.random() * ITEMS)
        if random.random() >= LEAVE_CATEGORY:
            successor += item % CATEGORIES - successor % CATEGORIES
        if successor != item and successor not in chosen:
            chosen.append(successor)
    return chosen


def _walk(length: int, successors: list[list[int]], random: Random) -> list[int]:
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


def _draw(weights: Sequence[float], random: Random) -> int:
    """A random index, with a probability proportional to its weight."""
    totals = list(accumulate(weights))
    return bisect(totals, random.random() * totals[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", default=Path(__file__).resolve().parent / "Demo")
    parser.add_argument("--log", metavar="FILE", help="write a raw log of clicks instead")
    args = parser.parse_args()
    try:
        if args.log:
            make_log(args.log)
        else:
            make_demo(args.folder)
    except OSError as error:
        sys.exit(f"make_demo.py: {describe(error)}")


if __name__ == "__main__":
    main()
