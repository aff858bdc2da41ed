"""Damaged, hostile and doubtful logs: one sentence with the file, the line and a remedy, in bounded memory."""

import gzip
import os
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dataset.convert import main
from dataset.files import read_items, replacing
from dataset.logs import opening, parquet
from dataset.logs.convert import ConvertOptions, convert
from dataset.logs.opening import ConvertError
from dataset.logs.read_log import read_log

ROOT = Path(__file__).parents[2]
HALF = ConvertOptions(test_share=0.5)
GOOD = "user,item,timestamp\nu,a,1\nu,b,2\nv,a,1\nv,b,2\n"


def write(folder, text, name="log.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def error_of(log, **choices):
    with pytest.raises(ConvertError) as error:
        convert(log, log.parent / "out", HALF, **choices)
    assert "\n" not in str(error.value) and str(log) in str(error.value)
    assert not (log.parent / "out").exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + 'u,"c,3\nv,d,4\n', "line 6: a quote opens a cell and is not closed at its end; close it"),
        (GOOD + 'u,"c,3\nv,"d",4\n', "line 6: a quote opens a cell"),
        (GOOD + 'u,"c,3\nv,d",4\nv,e,5\n', None),
        (GOOD + 'u,"12" lamp",3\n', "line 6: a quote opens a cell"),
        (GOOD + 'u,"c\nv,d\nw",3,4\n', "line 6: a quote opens a cell"),
        (GOOD + 'u,"c",3\n' + 'u,"c,3\n' + "v,d,4\n" * 300_000, "line 7: a quote opens a cell"),
        ('"user,item\nu,a,1\n', "line 1: a quote opens a cell"),
        (GOOD + f"u,{'x' * 5000},3\n", "line 6: a name has more than 4096 bytes; check the quotes and the columns"),
        (GOOD + f"{'x' * 5000},a,3\n", "line 6: a name has more than 4096 bytes"),
        (GOOD + "x" * 1_100_000 + "\n" + GOOD, "line 6: the line has more than 1,048,576 bytes; put each"),
        ("x" * 1_100_000, "line 1: the line has more than 1,048,576 bytes"),
        (GOOD * 2, "line 6: the timestamp is missing or not a number (seconds since 1970): 'timestamp'"),
        (GOOD.replace(",1\n", ",2014-04-07\n").replace(",2\n", ",2014-13-07\n"), "or not a date such as 2014-04-07, "),
        (GOOD + "u\n", "line 6: the item is missing; remove the line"),
        ('{"user": 1}\n', "line 1: the file is JSON; save it as CSV or Parquet"),
        (b"BZh91AY", "the file is compressed with bzip2; unpack it"),
        (b"7z\xbc\xaf\x27\x1c", "the file is a 7z archive; unpack it"),
        (GOOD.encode("utf-16"), "the file is not UTF-8 text; save it as UTF-8"),
        (GOOD.replace("\n", "\r"), "line 1: lines end with carriage returns; save the log with line feeds"),
        (GOOD.encode() + b"u,\xff,3\n", "line 6: the file is not UTF-8 text; save it as UTF-8"),
        (b"PAR1" + b"x" * 100, "the file cannot be read: its Parquet data are damaged"),
        ("u,a\0,1\n", "the file is not UTF-8 text"),
        ("1 2 3\n4 5\n6 7 8 9\n3\n", "line 4: the item is missing"),
    ],
)
def test_a_bad_log_names_line_and_remedy(text, message, tmp_path):
    log = write(tmp_path, text)
    if message is None:  # a name of two lines, as far as anyone can tell
        convert(log, tmp_path / "out", HALF)
        assert "c,3\nv,d" in read_items(tmp_path / "out" / "items.csv").values()
    else:
        assert message in error_of(log)


def test_archives_that_cannot_be_read(tmp_path):
    def archive(members, **options):
        with zipfile.ZipFile(tmp_path / "log.zip", "w", **options) as file:
            for name, text in members.items():
                file.writestr(name, text)
        return tmp_path / "log.zip"

    assert "the archive has 2 files (a.csv, b.csv, ...); unpack it, and name" in error_of(
        archive({"a.csv": "", "b.csv": ""})
    )
    assert "the archive has 0 files; unpack it" in error_of(archive({"a/": ""}))
    assert "an Excel workbook; save the sheet as CSV" in error_of(archive({"[Content_Types].xml": "", "x": ""}))
    assert "has a compression that is not read here" in error_of(archive({"a": GOOD}, compression=zipfile.ZIP_LZMA))
    whole = archive({"a": GOOD * 1000}, compression=zipfile.ZIP_DEFLATED).read_bytes()
    assert "compressed data are damaged or incomplete; copy or download" in error_of(write(tmp_path, whole[:200]))
    encrypted = bytearray(archive({"a": GOOD}).read_bytes())
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    assert "the archive is encrypted; unpack it" in error_of(write(tmp_path, bytes(encrypted)))
    whole = gzip.compress(os.urandom(100_000))
    assert "compressed data are damaged or incomplete" in error_of(write(tmp_path, whole[:5000]))
    assert "it is a folder; name the log in it" in error_of(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "this is a pipe or a device; save the log as a file" in error_of(tmp_path / "pipe")


MEASURE = """
import resource, sys
from dataset.convert import main
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
code = main(sys.argv[1:])
print("more", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024))
sys.exit(code)
"""


@pytest.mark.parametrize("bomb", ["one line", "one quoted cell", "many lines"])
def test_a_decompression_bomb_is_one_sentence_in_bounded_memory(bomb, tmp_path):
    log = tmp_path / "log.csv.gz"
    start = {"one line": GOOD, "one quoted cell": GOOD + 'u,"', "many lines": GOOD}[bomb]
    part = b"x" * (1 << 20) if bomb == "one line" else (b"x" * 99 + b"\n") * 10_000
    with gzip.open(log, "wb", compresslevel=9) as file:
        file.write(start.encode())
        for _ in range(300):
            file.write(part)
    assert log.stat().st_size < 2e6
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, log, "--output", tmp_path / "out"], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 1 and run.stderr.splitlines()[-1].startswith(f"convert.py: {log}, line 6: ")
    assert int(run.stdout.split()[-1]) < 300 * 2**20


def test_a_file_that_unpacks_to_a_multiple_of_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "LARGE", 1 << 20)
    log = write(tmp_path, gzip.compress(b"u,a,1\n" * 1_000_000), "log.csv")
    assert "the file unpacks to more than 200 times its size, which no log does" in error_of(log)


PARQUET_BOMBS = {
    "rows": lambda: pl.DataFrame({name: pl.repeat(1, 2_000_000, eager=True) for name in ("user", "item", "time")}),
    "string": lambda: pl.DataFrame({"user": ["u", "v"], "item": ["x" * 40_000_000, "b"], "time": [1, 2]}),
    "list": lambda: pl.DataFrame({"user": ["u", "v"], "items": [[1] * 4_000_000, [2, 3]]}),
}


@pytest.mark.parametrize("bomb", PARQUET_BOMBS)
def test_a_small_parquet_file_that_declares_much_is_refused_at_once(bomb, tmp_path, monkeypatch):
    log = tmp_path / "log.parquet"
    PARQUET_BOMBS[bomb]().write_parquet(log, compression="zstd")
    assert log.stat().st_size < 20_000
    monkeypatch.setattr(opening, "LARGE", 1 << 24)
    monkeypatch.setattr(pl, "scan_parquet", None)  # of ten times the size, polars would take 3 GB
    assert error_of(log) == (
        f"{log}: the file unpacks to more than 200 times its size, which no log does; look at its columns"
    )


def test_the_sizes_of_a_parquet_file_are_those_of_its_pages(tmp_path):
    log, rows = tmp_path / "log.parquet", 100_000
    columns = {"user": [f"user {i // 7}" for i in range(rows)], "item": range(rows), "f": [0.5] * rows}
    nested = {"list": [[1, 2]] * rows, "struct": [{"a": True}] * rows}
    for compression in ("zstd", "snappy", "gzip", "lz4", "uncompressed"):
        frame = pl.DataFrame(columns | nested)
        frame.write_parquet(log, compression=compression, row_group_size=30_000, metadata={"k": "v"})
        # 8 bytes for each row and for each of its 3 + 2 + 1 values, and a bit for each page
        least = 8 * rows * 7
        assert parquet.needs_more_memory(log, least) and not parquet.needs_more_memory(log, 2 * least)


def test_damaged_parquet_metadata_are_one_sentence(tmp_path):
    log = tmp_path / "log.parquet"
    pl.DataFrame({"user": ["u"] * 9, "item": [*"abcdefghi"], "timestamp": range(9)}).write_parquet(log)
    good, random = log.read_bytes(), np.random.default_rng(0)
    footer = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
    for attempt in range(300):
        bad = bytearray(good)
        for position in random.integers(4 if attempt % 2 else footer, len(good), 1 + attempt % 3):
            bad[position] = random.integers(256)
        log.write_bytes(bad if attempt % 5 else bad[: random.integers(4, len(bad))])
        try:
            pl.concat(read_log(log).batches)
        except ConvertError as error:
            assert str(error).startswith(f"{log}") and "\n" not in str(error)


FOOTERS = [b"", b"\0", b"\x19" * 5000, b"\x1c" * 5000, b"\x59\xfc" + b"\xff" * 9, b"\x16" + b"\xff" * 99]


@pytest.mark.parametrize("footer", FOOTERS)
def test_made_up_parquet_metadata_are_one_sentence(footer, tmp_path):
    log = write(tmp_path, b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1", "log.parquet")
    assert "its Parquet data are damaged or of an unknown kind" in error_of(log)


def test_an_endless_file_is_one_sentence(tmp_path):
    for device in ("/dev/zero", "/dev/urandom"):
        assert error_of(Path(device)) == f"{device}: this is a pipe or a device; save the log as a file"
    log = write(tmp_path, GOOD)
    with open(log, "r+b") as file:
        file.truncate(5 << 30)  # takes no place on the disk
    tracemalloc.start()
    try:
        assert f"{log}, line 6: the line has more than 1,048,576 bytes" in error_of(log)
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()


# --------------------------------------------------------------------------------------------------
# Times


def times_of(folder, times, **choices):
    log = write(folder, "".join(f"u{row % 2},i{row},{time}\n" for row, time in enumerate(times)))
    return pl.concat(read_log(log, **choices).batches)["time"].to_list()


@pytest.mark.parametrize(
    ("cells", "unit", "seconds"),
    [
        (["20140407", "20140408"], None, [1396828800, 1396915200]),
        (["201404070000", "201404080001"], None, [1396828800, 1396915260]),
        (["20140407000000", "20140408000001"], None, [1396828800, 1396915201]),
        (["20140407.0", "20140408.0"], None, [1396828800, 1396915200]),
        (["2014/04/07", "2014/04/08 00:00"], None, [1396828800, 1396915200]),
        (["2014-04-07", "2014-04-08T00:00:01.5Z"], None, [1396828800, 1396915201.5]),
        (["20140407", "20149999"], "s", [20140407, 20149999]),  # not dates
        (["1396828800", "1396915200"], None, [1396828800, 1396915200]),
        (["1396828800000", "1396915200000"], None, [1396828800, 1396915200]),
        (["1396828800000000", "1e15"], None, [1396828800, 1e9]),
        (["1396828800000000000", "0"], None, [1396828800, 0]),
        (["16167", "16168"], "d", [1396828800, 1396915200]),
        (["5", "6"], "ms", [0.005, 0.006]),
    ],
)
def test_times_become_seconds(cells, unit, seconds, tmp_path):
    assert times_of(tmp_path, cells, unit=unit) == pytest.approx(seconds, abs=1e-6)


def test_dates_without_separators_split_sessions(tmp_path):
    days = ["20140407", "20140408", "20140501", "20140502"]
    log = write(tmp_path, "".join(f"{user},{item},{day}\n" for user in "uv" for item, day in enumerate(days)))
    assert convert(log, tmp_path / "out", ConvertOptions(gap=48, test_share=0.5)).sessions == 4


@pytest.mark.parametrize(
    ("times", "options", "words"),
    [
        ([5, 5, 5, 5], {}, "all interactions of a user have the same time, so the file decides their order; if they"),
        ([0, 0, 10**9, 10**9], {}, "more than 10 years lie between any two interactions of a user"),
        (
            [16167, 16167, 16169, 16169],
            {"gap": 24},
            "no session was split, since no user pauses longer than 0.000556 hours",
        ),
        ([n // 2 % 5 for n in range(1000)], {}, "1000 interactions have only 5 different times; if these are ratings"),
        ([hours * 3600 for hours in (0, 0, 1, 1, 48, 48, 49, 49)], {"gap": 24}, None),
    ],
)
def test_absurd_gaps_are_a_warning_with_the_way_to_say_it(times, options, words, tmp_path):
    log = write(tmp_path, "".join(f"u{row % 2},i{row},{time}\n" for row, time in enumerate(times)))
    options = ConvertOptions(test_share=0.5, min_session_length=2, **options)
    said = str(convert(log, tmp_path / "out", options))
    if words is None:
        assert "warning" not in said
        return
    assert f"warning: {words}" in said
    assert "--time-unit (s, ms, us, ns, min, h, d or date)" in said or "--columns user,item,rating" in said


def test_a_log_without_times_cannot_be_split_by_them(tmp_path):
    log = write(tmp_path, "1 2\n1 3\n2 3\n2 2\n")
    for options in ({"gap": 1}, {"split": "time"}):
        with pytest.raises(ConvertError, match=f"the log has no times, which --{next(iter(options))}"):
            convert(log, tmp_path / "out", ConvertOptions(**options))
    with pytest.raises(ConvertError, match="time_unit='weeks': choose one of s, ms"):
        convert(log, tmp_path / "out", time_unit="weeks")


# --------------------------------------------------------------------------------------------------
# Faults

SLOW = """
import sys, time
import dataset.logs.convert
dataset.logs.convert.write_items = lambda *_: (print("writing", flush=True), time.sleep(60))
from dataset.convert import main
main(sys.argv[1:])
"""


def test_the_part_files_of_a_killed_convert_are_removed_at_the_next_start(tmp_path):
    log, out = write(tmp_path, GOOD), tmp_path / "out"
    command = [sys.executable, "-c", SLOW, log, "--output", out, "--test-share", "0.5"]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "writing\n"
    parts = sorted(out.glob(".*.part"))
    assert len(parts) == 3
    convert(log, out, HALF)  # while the other run lives, its files stay
    assert sorted(out.glob(".*.part")) == parts
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    convert(log, out, HALF)
    assert sorted(path.name for path in out.iterdir()) == ["items.csv", "test_sessions.csv", "train_sessions.csv"]


def test_part_files_of_other_targets_stay(tmp_path):
    for name in (".other.csv.abc.part", ".x[1].csv.abc.part", "x[1].csv.part"):
        (tmp_path / name).touch()
    with replacing(tmp_path / "x[1].csv") as part:
        part.write_text("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.csv.abc.part", "x[1].csv", "x[1].csv.part"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_names_the_file(tmp_path, monkeypatch, capsys):
    def fill(*_):
        with open("/dev/full", "w") as file:
            file.write("x")

    monkeypatch.setattr("dataset.logs.convert.write_items", fill)
    log = write(tmp_path, GOOD)
    start = time.monotonic()
    assert main([str(log), "--output", str(tmp_path / "out"), "--test-share", "0.5"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"convert.py: {tmp_path / 'out' / 'items.csv'} cannot be written (No space left on device); "
        "choose another --output"
    )
    assert time.monotonic() - start < 60 and not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("cut", ["u2;b;3", "u2;b", "u"])
def test_a_file_that_is_cut_off_in_its_last_line_is_refused(tmp_path, cut):
    """It has fewer cells and no line end. Read as it is, a cut time would be another time."""
    path = tmp_path / "clicks.csv"
    path.write_text(f"user;item;time;price\nu1;a;1;2\nu1;b;2;2\n{cut}")
    with pytest.raises(
        ConvertError, match=r"clicks.csv, line 4: the last line has \d cells instead of 4 and no line end"
    ):
        convert(path, tmp_path / "out")
    path.write_text(
        "user;item;time;price\n" + "".join(f"u{u};{i};{u + n};2\n" for u in range(9) for n, i in enumerate("ab"))
    )
    path.write_text(path.read_text().rstrip("\n"))  # a whole last line without a line end
    assert convert(path, tmp_path / "out").interactions == 18
