"""recommend.py by name: last week's model, and this week's log with a new item that sorts in front of all others.

Week 1 has sku-10, sku-12, ..., sku-32, and customers mostly go on to the next number. Week 2 also has sku-09, which
shifts all numbers of a new conversion by one.
"""

import csv
import gzip
import json
import shutil

import pytest

import train
from dataset.files import read_items
from dataset.find import load_dataset
from dataset.logs.convert import ConvertOptions, convert
from process_data import Sessions
from recommend import main
from sessionrec.checkpoint import load_checkpoint, write_checkpoint
from sessionrec.recommend import evaluate, recommend

HALF = ConvertOptions(test_share=0.5)
WEEK_2 = {  # user -> session and the item that follows
    "zoe": ["sku-09", "sku-14", "sku-16", "sku-18"],
    "ann": ["sku-22", "sku-24", "sku-26"],
    "bob": ["sku-09", "sku-10"],
}
EXPECTED = ["sku-18", "sku-26"]  # after the sessions of zoe and ann; bob's has no item that week 1 had


def write_log(path, sessions, header="user,item,timestamp"):
    """Interactions of all users in turn, so that a user's are not together."""
    longest = max(map(len, sessions.values()))
    rows = [(u, s[i], 1000 * i + 5) for i in range(longest) for u, s in sessions.items() if i < len(s)]
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt") as file:
        file.writelines([f"{header}\n", *(f"{user},{item},{time}\n" for user, item, time in rows)])
    return path


@pytest.fixture(scope="module")
def weeks(tmp_path_factory):
    """A folder with both weeks and a CoOccurrence model of week 1, `old.safetensors`."""
    folder = tmp_path_factory.mktemp("weeks")
    items = [f"sku-{number}" for number in range(10, 34, 2)]
    first = {f"u{user}": (items * 2)[user % 12 : user % 12 + 4] for user in range(48)}
    convert(write_log(folder / "week1.csv", first), folder / "One")
    model = ["--dataset", str(folder / "One"), "--model", "CoOccurrence", "--split", "none"]
    assert train.main([*model, "--output", str(folder / "old.safetensors")]) == 0
    log = write_log(folder / "week2.csv", WEEK_2)
    convert(log, folder / "Alone", HALF)
    convert(log, folder / "Continued", HALF, items=folder / "One" / "items.csv")
    return folder


def ask(weeks, sessions, *options, checkpoint="old.safetensors"):
    """The rows that recommend.py writes for a file, as {column: value}."""
    output = weeks / "out.csv"
    output.unlink(missing_ok=True)
    arguments = ["--checkpoint", weeks / checkpoint, "--sessions", sessions, "--output", output, "--k", 5, *options]
    assert main([*map(str, arguments)]) == 0
    with open(output, newline="", encoding="utf-8") as file:
        return [{c: v if c == "user" else json.loads(v) for c, v in row.items()} for row in csv.DictReader(file)]


def refused(weeks, *options, checkpoint="old.safetensors"):
    assert main([*map(str, ["--checkpoint", weeks / checkpoint, *options])]) == 1


def histories():
    """The sessions of week 2 without the item that follows."""
    return {user: session[:-1] for user, session in WEEK_2.items()}


def write_names(path, sessions, labels=None):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["session"] if labels is None else ["session", "label"])
        for row, session in enumerate(sessions):
            writer.writerow([json.dumps(session)] + ([] if labels is None else [labels[row]]))
    return path


def write_ids(path, sessions, labels=None):
    """The sessions in the numbering of the items.csv beside them."""
    ids = {name: item for item, name in read_items(path.parent / "items.csv").items()}
    rows = [[ids[name] for name in session] for session in sessions]
    return write_names(path, rows, None if labels is None else [ids[label] for label in labels])


def test_names_log_and_continued_ids_give_the_same_recommendations(weeks, capsys):
    sessions = [*histories().values()]
    log = ask(weeks, write_log(weeks / "asked.csv.gz", histories()))
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith(
        "asked.csv.gz: cells separated by `,`, line 1 is the header; user = user, item"
    )
    assert out.splitlines()[1].endswith(
        "3 sessions: 1 known, 1 partly known, 1 not known at all (popular items instead)"
    )
    assert "warning" not in err
    assert [row["user"] for row in log] == ["zoe", "ann", "bob"]
    assert [row["session"] for row in log] == sessions
    assert [row["predict"][0] for row in log[:2]] == EXPECTED
    assert all(name in load_dataset(weeks / "One").names.values() for row in log for name in row["predict"])

    lists = [{name: row[name] for name in ("session", "predict")} for row in log]
    assert ask(weeks, write_names(weeks / "names.csv", sessions)) == lists
    assert ask(weeks, write_ids(weeks / "Continued" / "asked.csv", sessions)) == lists
    assert "warning" not in capsys.readouterr().err  # the numbering is the same, so nothing is to be warned of
    assert recommend(weeks / "old.safetensors", sessions, 5).names == [row["predict"] for row in lists]


def test_ids_of_a_separate_conversion_are_refused(weeks, capsys):
    sessions, labels = [*histories().values()], [session[-1] for session in WEEK_2.values()]
    file, items = write_ids(weeks / "Alone" / "asked.csv", sessions, labels), weeks / "Alone" / "items.csv"
    sentence = (
        f"recommend.py: 1 is 'sku-09' in {items} and 'sku-10' in the checkpoint; "
        "convert the new log with --items OLD/items.csv, or give sessions by name\n"
    )
    refused(weeks, "--sessions", file, "--output", weeks / "out.csv")
    assert capsys.readouterr().err == sentence
    refused(weeks, "--evaluate", file)
    assert capsys.readouterr() == ("", sentence)
    # The same name under another number is as wrong, also if no number is in both.
    items.write_text("id,item\n101,sku-10\n")
    refused(weeks, "--evaluate", file)
    assert f"'sku-10' is 101 in {items} and 1 in the checkpoint; convert" in capsys.readouterr().err
    # Names and logs do not depend on the numbering beside them.
    assert [row["predict"][0] for row in ask(weeks, write_names(weeks / "Alone" / "names.csv", sessions))][
        :2
    ] == EXPECTED
    convert(weeks / "week2.csv", weeks / "Alone", HALF)


def test_evaluation_takes_names_and_continued_ids(weeks, capsys):
    sessions, labels = [*histories().values()], [session[-1] for session in WEEK_2.values()]
    reports = []
    for file in (
        write_names(weeks / "names.csv", sessions, labels),
        write_ids(weeks / "Continued" / "x.csv", sessions, labels),
    ):
        assert main(["--checkpoint", str(weeks / "old.safetensors"), "--evaluate", str(file), "--json"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        reports.append(json.loads(out))
    assert reports[0] == reports[1]
    assert (reports[0]["known"], reports[0]["partly_known"], reports[0]["unknown"]) == (1, 1, 1)
    assert reports[0]["accuracy"] == pytest.approx(2 / 3) and reports[0]["coverage"] == 1
    assert evaluate(weeks / "old.safetensors", sessions, labels).metrics["accuracy"] == pytest.approx(2 / 3)


def without_names(weeks):
    """The checkpoint as it was written before checkpoints had names."""
    saved = load_checkpoint(weeks / "old.safetensors")
    saved.vocabulary.names = None
    write_checkpoint(weeks / "nameless.safetensors", saved)
    return "nameless.safetensors"


def test_a_checkpoint_without_names_takes_them_from_items(weeks, capsys):
    old, items = without_names(weeks), ["--items", weeks / "One" / "items.csv"]
    sessions = [*histories().values()]
    names = write_names(weeks / "names.csv", sessions)
    found = ask(weeks, names, *items, checkpoint=old)
    assert found == ask(weeks, names) and found[0]["predict"][0] == "sku-18"
    assert ask(weeks, names, *items) == found  # they agree with those of the checkpoint
    (weeks / "ids.csv").write_text('session\n"[3, 4]"\n')
    assert ask(weeks, weeks / "ids.csv", checkpoint=old)[0] == {"session": [3, 4], "predict": found_ids(weeks, [3, 4])}
    assert ask(weeks, weeks / "ids.csv", *items, checkpoint=old)[0]["session"] == ["sku-14", "sku-16"]
    assert ask(weeks, weeks / "ids.csv")[0]["session"] == ["sku-14", "sku-16"]
    output = ["--output", weeks / "out.csv"]
    capsys.readouterr()
    refused(weeks, "--sessions", names, *output, checkpoint=old)
    assert f"{names}: has the name 'sku-09', but the checkpoint knows its items by id only" in capsys.readouterr().err
    refused(weeks, "--sessions", weeks / "week2.csv", *output, checkpoint=old)
    assert "week2.csv: has the name 'sku-" in capsys.readouterr().err
    wrong = weeks / "wrong.csv"
    for text, checkpoint, words in (
        ("1,sku-10\n3,sku-14\n", old, "does not name the checkpoint's item 2; name the items.csv of the dataset"),
        ("1,sku-10\n2,sku-14\n", "old.safetensors", "2 is 'sku-14' in"),
        ("101,cap\n", "old.safetensors", "has none of the checkpoint's items; name the items.csv"),
        ("1,sku-10\n1,sku-12\n", old, "line 3: must have an id that no other row has"),
    ):
        wrong.write_text(f"id,item\n{text}")
        refused(weeks, "--sessions", names, "--items", wrong, *output, checkpoint=checkpoint)
        assert words in capsys.readouterr().err


def found_ids(weeks, session):
    return recommend(weeks / "old.safetensors", Sessions.from_lists([session]), 5).items[0].tolist()


def test_a_log_of_integers_gives_ids_and_its_users(tmp_path, capsys):
    items = [*range(10, 34, 2)]
    first = {user: (items * 2)[user % 12 : user % 12 + 4] for user in range(48)}
    convert(write_log(tmp_path / "log.csv", first), tmp_path / "Shop")
    command = ["--dataset", str(tmp_path / "Shop"), "--model", "CoOccurrence", "--split", "none"]
    assert train.main([*command, "--output", str(tmp_path / "old.safetensors")]) == 0
    assert load_checkpoint(tmp_path / "old.safetensors").vocabulary.names is None
    log = write_log(tmp_path / "new.csv", {"z": [14, 16], "a": [9, 22, 24]}, header="session,item,time")
    found = ask(tmp_path, log)
    assert [(row["user"], row["session"], row["predict"][0]) for row in found] == [
        ("z", [14, 16], 18),
        ("a", [9, 22, 24], 26),
    ]
    named = write_names(tmp_path / "names.csv", [["14", "16"]])
    assert ask(tmp_path, named)[0] == {"session": [14, 16], "predict": found[0]["predict"]}


def test_a_log_is_cut_at_gaps_and_its_columns_can_be_named(weeks, tmp_path, capsys):
    rows = [
        "sku-14;x;zoe;0",
        "sku-22;x;ann;5",
        "sku-16;x;zoe;60",
        "sku-24;x;ann;65",
        "sku-16;x;zoe;70",
        "sku-22;x;zoe;900000",
    ]
    log = tmp_path / "log.txt"
    log.write_text("\n".join([*rows, ""]))
    columns = ["--columns", "item,-,user,timestamp"]
    found = ask(weeks, log, *columns, "--gap", 24)
    assert "1 repeats of an item within a session were left out" in capsys.readouterr().out
    assert [(row["user"], row["session"]) for row in found] == [
        ("zoe", ["sku-14", "sku-16"]),
        ("ann", ["sku-22", "sku-24"]),
        ("zoe", ["sku-22"]),
    ]
    assert [row["predict"][0] for row in found] == ["sku-18", "sku-26", "sku-24"]
    assert len(ask(weeks, log, *columns)) == 2
    assert len(ask(weeks, log, *columns, "--gap", 24, "--time-unit", "ms")) == 2


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("session\n[1]\n", ["--gap", 3], "has lists of items; --gap and --time-unit are for a log, so omit them"),
        ('session\n"[""sku-14"", 7]"\n', [], "line 2: the session contains '7', which is not a name in quotes"),
        ('session\n"[""sku-14"""\n', [], "line 2: the session '[\"sku-14\"' is not a list of names"),
        ("session,item,time\n7,sku-14,5\n7,,6\n", [], "line 3: the item is missing"),
        ("session,time\n7,5\n", [], "line 2: the session '7' is not a list such as [1, 2]"),
        ("user,time\n7,5\n", [], "there is no column `item`"),
        (None, ["--gap", 3], "cannot be read (No such file or directory)"),
    ],
)
def test_a_wrong_file_is_one_sentence_with_its_line(text, options, words, weeks, tmp_path, capsys):
    file = tmp_path / "in.csv"
    if text is not None:
        file.write_text(text)
    refused(weeks, "--sessions", file, "--output", tmp_path / "out.csv", *options)
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith(f"recommend.py: {file}") and words in sentence
    assert not (tmp_path / "out.csv").exists()


def test_a_wrong_items_csv_beside_ids_is_one_sentence(weeks, tmp_path, capsys):
    shutil.copy(weeks / "One" / "test_sessions.csv", tmp_path)
    (tmp_path / "items.csv").write_text("item\nsku-10\n")
    refused(weeks, "--evaluate", tmp_path / "test_sessions.csv")
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"recommend.py: {tmp_path / 'items.csv'}, line 1: must have the columns id,item")


def test_the_output_does_not_replace_the_names_beside_the_sessions(weeks, capsys):
    items = weeks / "One" / "items.csv"
    before = items.read_bytes()
    refused(weeks, "--sessions", weeks / "One" / "test_sessions.csv", "--output", items)
    assert "would replace an input file" in capsys.readouterr().err and items.read_bytes() == before
