"""Demo: a synthetic dataset in the format of the Amazon ones, for trying everything offline.

    python dataset/make_demo.py [FOLDER]
    python dataset/make_demo.py --log checkpoints/shop.csv    # the same users as a raw log of clicks

An item has a few preferred successors, mostly in its own category, and most steps of a session go
to one of them; the others follow popularity. So the last item says much about the next one, and
popularity alone says little. Users and session lengths are distributed like Beauty's.
"""

import argparse
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
START = 1_790_000_000  # of the log's times, seconds since 1970


def make_demo(folder, seed=2026):
    """Write `train_sessions.csv` and `test_sessions.csv`, the same bytes for the same seed."""
    raw_ids, train, test = _draw_users(seed)
    rows = {
        "train": [(items[:end], items[end]) for items in train for end in range(1, len(items))],
        "test": [(session, label) for *session, label in test],
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    for part in rows:
        with open(Path(folder) / f"{part}_sessions.csv", "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("session", "label"))
            for session, label in rows[part]:
                writer.writerow(([raw_ids[item] for item in session], raw_ids[label]))


def make_log(path, seed=2026):
    """Write all users as a log that knows nothing of ours: `user,item,timestamp`, items named by text.

    A user comes at a random second of 30 days and clicks every one to five minutes; rows go by time.
    """
    raw_ids, train, test = _draw_users(seed)
    random = Random(seed)
    clicks = []
    for user, items in enumerate(train + test):
        time = START + int(random.random() * 30 * 86400)
        for item in items:
            clicks.append(
                (time, f"user-{user:04}", f"category-{item % CATEGORIES:02}/item-{raw_ids[item]:04}")
            )
            time += 60 + int(random.random() * 240)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("user", "item", "timestamp"))
        writer.writerows((user, item, time) for time, user, item in sorted(clicks))


def _draw_users(seed):
    """Raw ids by item, and the items of each training and each test user, in order.

    Only `Random.random` is drawn from: Python promises its numbers for every later version, as it
    does for no other method, and as NumPy does for none.
    """
    random = Random(seed)
    raw_ids = [0, *sorted(range(1, RAW_IDS), key=lambda _: random.random())[: ITEMS - 1]]
    successors = [_choose_successors(item, random) for item in range(ITEMS)]
    train = [_walk(_draw(TRAIN_ROWS, random) + 2, successors, random) for _ in range(TRAIN_USERS)]
    test = [_walk(_draw(TEST_LENGTHS, random) + 2, successors, random) for _ in range(TEST_USERS)]
    return raw_ids, train, test


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


def main():
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
        sys.exit(f"make_demo.py: {error}")


if __name__ == "__main__":
    main()
