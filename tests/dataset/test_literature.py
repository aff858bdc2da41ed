"""The literature's datasets: the protocols on small files, and the published counts on the real ones."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from session_lists import as_rows

from dataset import literature
from dataset.fetch import SUMS
from dataset.folders import read_dataset
from dataset.literature import LITERATURE, Source, make_literature_dataset
from process_data import DataError, prepare


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Put small files in the place of the published ones: publish(name, split, {file: bytes})."""

    def publish(name, split, files):
        for file, raw in files.items():
            (tmp_path / file).write_bytes(raw)
        fetched = lambda names: [tmp_path / file for file in names]  # noqa: E731
        monkeypatch.setattr(literature, "fetch_literature", fetched)
        monkeypatch.setitem(LITERATURE, name, Source(tuple(files), split, ""))
        return read_dataset(make_literature_dataset(name, tmp_path / name))

    return publish


def test_leave_one_out_keeps_whole_histories(publish):
    lines = b"1 5 6 7 8\n2 6 9 6\n3 5 7\n"
    data = prepare(publish("S3_Beauty", "leave-one-out", {"b.txt": lines}), split="leave-one-out")
    assert data.vocabulary.item_ids.tolist() == [5, 6, 7, 9]  # 8 is only a label of the test
    assert as_rows(data.train) == [([1], 2)]
    assert sorted(as_rows(data.valid)) == [([1], 3), ([1, 2], 3), ([2], 4)]
    assert as_rows(data.test) == [([1, 2, 3], 0), ([2, 4], 2)]


def test_the_given_pairs_are_the_test_rows(publish):
    train = [[1, 2, 3], [2, 4], [4, 2, 2]] * 4
    pairs = ([[1, 2], [1], [9, 4]], [3, 2, 2])
    files = {"t.pkl": pickle.dumps(train, 2), "p.pkl": pickle.dumps(pairs, 2)}
    dataset = publish("Tmall", "last", files)
    assert as_rows(dataset.test) == [([1, 2], 3), ([1], 2), ([9, 4], 2)]
    assert len(dataset.train) == 20 and len(set(dataset.train.users)) == 12  # equal sessions stay apart
    data = prepare(dataset, split="last")
    assert as_rows(data.valid) == [([4], 2), ([4, 2], 2)]  # the last session; its item repeats
    assert not data.mask_seen


def test_a_finished_folder_is_not_made_again(publish, tmp_path, monkeypatch):
    made = publish("S3_Toys", "leave-one-out", {"b.txt": b"1 5 6 7 8\n2 6 9 7\n"})
    monkeypatch.setitem(LITERATURE, "S3_Toys", Source(("b.txt",), "leave-one-out", made.sha256))
    monkeypatch.setattr(literature, "fetch_literature", lambda names: pytest.fail("it is complete"))
    assert make_literature_dataset("S3_Toys", made.folder) == made.folder
    before = (made.folder / "train_sessions.csv").read_text()
    (made.folder / "train_sessions.csv").write_text(before + '"[5]",6,9\n')
    with pytest.raises(DataError, match="S3_Toys: has other sessions than the published S3_Toys; rename or remove"):
        make_literature_dataset("S3_Toys", made.folder)


# Users or sessions, training rows, test rows, items. Tmall has 40,727 items; the papers count the padding, too.
COUNTS = {
    "S3_Beauty": (22_363, 153_776, 22_363, 12_101),
    "S3_Sports": (35_598, 225_141, 35_598, 18_357),
    "S3_Toys": (19_412, 128_773, 19_412, 11_924),
    "Diginetica": (186_670, 719_470, 60_858, 43_097),
    "Tmall": (65_286, 351_268, 25_898, 40_727),
}


@pytest.mark.parametrize("name", LITERATURE)
def test_the_counts_of_the_papers(name, real_data, tmp_path):
    if not Path(real_data, "literature").is_dir():
        pytest.skip("real data: DATASET_ROOT has no folder literature")
    dataset = read_dataset(make_literature_dataset(name, tmp_path / name))
    assert dataset.sha256 == LITERATURE[name].sha256
    users, train, test, items = COUNTS[name]
    assert (len(set(dataset.train.users)), len(dataset.train), len(dataset.test)) == (users, train, test)
    everything = np.r_[dataset.train.items, dataset.train.labels, dataset.test.items, dataset.test.labels]
    assert len(np.unique(everything)) == items


def test_the_sums_list_every_file():
    listed = {line.split()[1] for line in SUMS.read_text().splitlines() if not line.startswith("#")}
    assert {f"literature/{file}" for source in LITERATURE.values() for file in source.files} <= listed
