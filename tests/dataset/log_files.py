"""A small log with its session files, and functions to write logs and read session files."""

import csv
import gzip
import re

import polars as pl

from dataset.logs.convert import FILES, ConvertOptions

DAY = 86400
START = 16_000 * DAY
W, X, Y, Z = (f"B00000000{letter}" for letter in "WXYZ")  # their ids become 1, 2, 3, 4
USERS = [f"A{number}QWERTZUIOPAS" for number in range(6)]

# (user, item, day). User 1 has Y and Z on one day, in this order. User 3 repeats Z. User 4 has one item. The rows of
# user 5 are not sorted by day.
LOG = [
    (1, X, 1),
    (3, Z, 1),
    (1, Y, 2),
    (2, Y, 1),
    (5, X, 2),
    (1, Z, 2),
    (3, Y, 2),
    (4, W, 5),
    (3, Z, 3),
    (2, X, 3),
    (5, W, 1),
    (3, X, 4),
]
INTERACTIONS = [(USERS[user], item, START + day * DAY) for user, item, day in LOG]
# Four users remain after filtering. With seed 0, user 2 is the test user.
TRAIN = 'session,label,user\n[2],3,1\n"[2, 3]",4,1\n[4],3,2\n"[4, 3]",2,2\n[1],2,3\n'
TEST = "session,label\n[3],2\n"
ITEMS = f"id,item\n1,{W}\n2,{X}\n3,{Y}\n4,{Z}\n"
SHARE, HALF = ConvertOptions(test_share=0.25), ConvertOptions(test_share=0.5)


def write_rows(path, rows, header=None, separator=","):
    rows = [header, *rows] if header else rows
    text = "".join(separator.join(map(str, row)) + "\n" for row in rows)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


def write_amazon(path, rows=INTERACTIONS):
    return write_rows(path, [(user, item, "5.0", time) for user, item, time in rows])


def write_parquet(path, rows, names=("user_id", "item_id", "timestamp")):
    pl.DataFrame(rows, schema=names, orient="row").write_parquet(path)
    return path


def read_output(folder):
    return [(folder / name).read_text() for name in FILES]


def sequences(folder):
    """The sessions of both files with their labels appended; of the training rows only the longest of each user."""
    files = []
    for name in FILES[:2]:
        with open(folder / name, newline="") as file:
            rows = [
                [int(item) for item in re.findall(r"\d+", row["session"])] + [int(row["label"])]
                for row in csv.DictReader(file)
            ]
        files.append([row for row, following in zip(rows, [*rows[1:], []], strict=True) if following[:-1] != row])
    return files
