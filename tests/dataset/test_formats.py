"""The files of the field go in as they are: the sessions of a small log of each shape."""

import csv
import gzip
import zipfile

import polars as pl
import pytest
from log_files import sequences, write_parquet

from dataset.logs.convert import ConvertOptions, convert
from dataset.logs.opening import ConvertError, read_blocks
from dataset.logs.read_log import read_log

KEEP = ConvertOptions(test_share=0.5, keep_repeats=True)


def write(folder, text, name="log.txt"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def sessions_of(log, options=KEEP, **choices):
    """The sessions of the training and the test file together, by the names of their items, and the summary."""
    out = log.parent / "out"
    summary = convert(log, out, options, **choices)
    with open(out / "items.csv", newline="", encoding="utf-8") as file:
        names = {int(row["id"]): row["item"] for row in csv.DictReader(file)}
    train, test = sequences(out)
    return sorted([names[item] for item in session] for session in [*train, *test]), summary


# Name -> text, the sessions by item names, and words of the line that says what was assumed.
FORMATS = {
    "semicolons": (
        "user;item;timestamp\nu;a, b;1\nu;c;2\nv;c;1\nv;a, b;2\n",
        [["a, b", "c"], ["c", "a, b"]],
        "cells separated by `;`, line 1 is the header; user = user, item = item, time = timestamp (seconds)",
    ),
    "quotes inside a field": (
        'user,item,timestamp\nu,12" lamp,2\nu,"a ""b"", c",1\nv,5" x 7" frame,1\nv,12" lamp,2\n',
        [['5" x 7" frame', '12" lamp'], ['a "b", c', '12" lamp']],
        "cells separated by `,`",
    ),
    "every cell quoted": (
        '"user";"item";"timestamp"\n"u";"a; b";"1"\n"u";"c";"2"\n"v";"c";"1"\n"v";"a; b";"2"\n',
        [["a; b", "c"], ["c", "a; b"]],
        "cells separated by `;`",
    ),
    "a line end in a quoted field": (
        'user,item,timestamp\nu,"two\nlines",1\nu,c,2\nv,c,1\nv,"two\nlines",2\n',
        [["c", "two\nlines"], ["two\nlines", "c"]],
        "line 1 is the header",
    ),
    "blanks after commas": (
        "user, item, timestamp\nu, a b, 1\nu, c, 2\nv, c, 1\nv, a b , 2\n",
        [["a b", "c"], ["c", "a b"]],
        "user = user, item = item",
    ),
    "blanks after commas, with quotes": (
        'user, item, timestamp\nu, "a, b", 1\nu, c, 2\nv, c , 1\nv, "a, b", 2\n',
        [["a, b", "c"], ["c", "a, b"]],
        "user = user, item = item",
    ),
    "blanks": ("7 30 1\n7 20 2\n8   20 1\n8 30 2 \n", [["20", "30"], ["30", "20"]], "cells separated by a blank"),
    "carriage returns and line feeds": (
        "user\titem\ttime\r\nu\ta\t1\r\nu\tb\t2\r\nv\tb\t1\r\nv\ta\t2\r\n",
        [["a", "b"], ["b", "a"]],
        "cells separated by a tab",
    ),
    "MovieLens u.data": (
        "196\t242\t3\t881250950\n186\t302\t3\t891717742\n196\t302\t1\t881250949\n186\t242\t5\t891717743\n",
        [["302", "242"], ["302", "242"]],
        "MovieLens ratings, cells separated by a tab, no header; user = column 1, item = column 2, time = column 4",
    ),
    "MovieLens ratings.dat": (
        "1::1193::5::978300760\n1::661::3::978302109\n2::661::3::978301968\n2::1193::3.5::978301969\n",
        [["1193", "661"], ["661", "1193"]],
        "MovieLens ratings, cells separated by `::`, no header",
    ),
    "MovieLens ratings.csv": (
        "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n1,1029,3.0,1260759179\n2,1029,4.0,2\n2,31,4.0,3\n",
        [["1029", "31"], ["31", "1029"]],
        "user = userId, item = movieId, time = timestamp (seconds)",
    ),
    "Yoochoose clicks": (
        "1,2014-04-07T10:54:09.868Z,214536500,0\n1,2014-04-07T10:51:09.277Z,214536502,0\n"
        "2,2014-04-07T13:56:37.614Z,214662742,S\n2,2014-04-07T13:57:19.373Z,214536500,0\n",
        [["214536502", "214536500"], ["214662742", "214536500"]],
        "Yoochoose, cells separated by `,`, no header; user = column 1, item = column 3, time = column 2 (dates)",
    ),
    "Yoochoose buys": (
        "420374,2014-04-06T18:44:58.314Z,214537888,12462,1\n420374,2014-04-06T18:44:58.325Z,214537850,10471,1\n"
        "281626,2014-04-06T09:40:13.032Z,214535653,1883,1\n281626,2014-04-06T09:40:12.032Z,214537850,1883,1\n",
        [["214537850", "214535653"], ["214537888", "214537850"]],
        "user = column 1, item = column 3, time = column 2 (dates)",
    ),
    "Diginetica": (
        "sessionId;userId;itemId;timeframe;eventdate\n1;NA;81766;526309;2016-05-09\n1;NA;31331;1031018;2016-05-09\n"
        "2;NA;31331;9000000;2016-05-09\n2;NA;9655;243569;2016-05-10\n",
        [["31331", "9655"], ["81766", "31331"]],
        "user = sessionId, item = itemId, time = eventdate (dates) + timeframe (milliseconds)",
    ),
    "Diginetica, with other names": (
        "session_id;user_id;item_id;timeframe;eventdate\n1;;5;200;2016-05-09\n1;;6;100;2016-05-09\n"
        "2;7;6;1;2016-05-09\n2;7;5;2;2016-05-09\n",
        [["6", "5"], ["6", "5"]],
        "user = session_id",
    ),
    "RetailRocket": (
        "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n"
        "1433224214164,992329,view,248676,\n1433221999827,257597,transaction,248676,4000\n"
        "1433221955914,992329,addtocart,355908,\n",
        [["355908", "248676"], ["355908", "248676"]],
        "user = visitorid, item = itemid, time = timestamp (milliseconds)",
    ),
    "REES46": (
        "event_time,event_type,product_id,price,user_id,user_session\n2019-10-01 00:00:05 UTC,view,44,35.79,5,s\n"
        "2019-10-01 00:00:00 UTC,view,39,33.20,5,s\n2019-10-01 00:00:01 UTC,view,39,5.4,5,t\n"
        "2019-10-01 00:00:02 UTC,view,44,9,5,t\n",
        [["39", "44"], ["39", "44"]],
        "user = user_session, item = product_id, time = event_time (dates)",
    ),
    "H&M": (
        "t_dat,customer_id,article_id,price,sales_channel_id\n2018-09-21,u,0663713001,0.05,2\n"
        "2018-09-20,u,0541518023,0.03,2\n2018-09-20,v,0663713001,0.05,2\n2018-09-21,v,0541518023,0.05,2\n",
        [["0541518023", "0663713001"], ["0663713001", "0541518023"]],
        "user = customer_id, item = article_id, time = t_dat (dates)",
    ),
    "SASRec pairs": (
        "1 10\n1 30\n1 20\n2 30\n2 10\n",
        [["10", "30", "20"], ["30", "10"]],
        "SASRec pairs, cells separated by a blank, no header; user = column 1, item = column 2, "
        "no time: the order of the file",
    ),
    "pairs with a header": ("user,item\nu,b\nu,a\nv,a\nv,b\n", [["a", "b"], ["b", "a"]], "no time: the order of the"),
    "ratings without a time": (
        "user\titem\trating\nu\tb\t5\nu\ta\t4\nv\ta\t1\nv\tb\t1\n",
        [["a", "b"], ["b", "a"]],
        "no time",
    ),
    "S3-Rec lines": (
        "1 10 30 20 10\n2 30 10\n3 20 30 40 50 60\n",
        [["10", "30", "20", "10"], ["20", "30", "40", "50", "60"], ["30", "10"]],
        "S3-Rec lines, cells separated by a blank, no header; user = column 1, items = column 2, no time",
    ),
    "RecBole .inter": (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t5\t3\t2.0\n1\t6\t3\t1.0\n2\t5\t3\t1e9\n2\t6\t1\t2e9\n",
        [["5", "6"], ["6", "5"]],
        "item = item_id:token, time = timestamp:float (seconds)",
    ),
    "RecBole item_id_list": (
        "session_id:token\titem_id_list:token_seq\titem_id:token\n9\t1 2 3 4 5 6\t7\n10\t4 5\t1\n",
        [["1", "2", "3", "4", "5", "6", "7"], ["4", "5", "1"]],
        "item = item_id:token, history = item_id_list:token_seq, no time",
    ),
    "RecBole item_id_list, a row for each prefix": (
        "user_id:token\titem_id_list:token_seq\titem_id:token\ttimestamp:float\n"
        "1\t5 6\t7\t30\n1\t5\t6\t20\n2\t5\t6\t10\n1\t5 6 7\t8\t40\n1\t8\t5\t90\n",
        [["5", "6"], ["5", "6", "7", "8"], ["8", "5"]],
        "2 rows that a longer row continues were dropped",
    ),
    "RecBole item_id_list, numbered prefixes": (
        "session_id:token\titem_id_list:token_seq\titem_id:token\n1\t5 6\t7\n2\t5\t6\n3\t5\t6\n4\t6 7\t5\n5\t6\t7\n",
        [["5", "6"], ["5", "6", "7"], ["6", "7", "5"]],
        "2 rows that a longer row continues were dropped",
    ),
    "dates and times": (
        "user,item,timestamp\nu,a,2026-03-01 10:00:01\nu,b,2026-03-01 10:00:00.5\nv,a,2026-03-01\nv,b,2026-03-02\n",
        [["a", "b"], ["b", "a"]],
        "time = timestamp (dates)",
    ),
    "times with a zone": (
        "user,item,timestamp\nu,a,2026-03-01T10:00:00+02:00\nu,b,2026-03-01T09:00:00+00:00\n"
        "v,a,2026-03-01T23:59:59-0500\nv,b,2026-03-02T04:00:00Z\n",
        [["a", "b"], ["b", "a"]],
        "time = timestamp (dates)",
    ),
    "a pandas frame without names": (
        "0,1,2\nu,a,1\nu,b,2\nv,b,1\nv,a,2\n",
        [["a", "b"], ["b", "a"]],
        "line 1 (0,1,2) is a header without names; user = column 1",
    ),
    "a pandas frame without names, all integers": (
        "0,1,2\n7,30,1\n7,20,2\n8,20,1\n8,30,2\n",
        [["20", "30"], ["30", "20"]],
        "line 1 (0,1,2) is a header without names",
    ),
    "a pandas frame without names, with its index": (
        ",0,1,2\n0,u,a,1\n1,u,b,2\n2,v,b,1\n3,v,a,2\n",
        [["a", "b"], ["b", "a"]],
        "user = column 2, item = column 3, time = column 4",
    ),
    "a pandas frame with its index": (
        ",user,item,timestamp\n0,u,a,1\n1,u,b,2\n2,v,b,1\n3,v,a,2\n",
        [["a", "b"], ["b", "a"]],
        "user = user, item = item",
    ),
    "text without numbers": (
        "ann\tlamp\nann\tsofa\nbob\tsofa\nbob\tlamp\n",
        [["lamp", "sofa"], ["sofa", "lamp"]],
        "no header",
    ),
    "names from spreadsheets": (
        "user,item,timestamp\nu,=1+1,1\nu,+a,2\nv,-b,1\nv,@c,2\n",
        [["-b", "@c"], ["=1+1", "+a"]],
        "line 1 is the header",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_a_log_of_this_shape_gives_these_sessions(name, tmp_path):
    text, expected, words = FORMATS[name]
    sessions, summary = sessions_of(write(tmp_path, text))
    assert sessions == sorted(expected)
    said = "\n".join(summary.notes)
    assert words in said and said.startswith("log.txt: ") and said in str(summary)
    assert "warning" not in said or "10 years" in said  # two logs have times like 1 and 10^9


@pytest.mark.parametrize("name", FORMATS)
def test_blocks_of_any_size_give_the_same_rows(name, tmp_path, monkeypatch):
    log = write(tmp_path, FORMATS[name][0])
    whole = pl.concat(read_log(log).batches)
    monkeypatch.setattr("dataset.logs.parse.read_blocks", lambda path: read_blocks(path, size=7))
    assert pl.concat(read_log(log).batches).equals(whole)


# --------------------------------------------------------------------------------------------------
# Other containers, and columns that are named

TEXT = "user,item,timestamp\nu,a,1\nu,b,2\nv,b,1\nv,a,2\n"
EXPECTED = [["a", "b"], ["b", "a"]]


def zip_of(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def test_gzip_and_zip_are_known_by_their_content(tmp_path):
    assert sessions_of(write(tmp_path, gzip.compress(TEXT.encode()), "log.csv"))[0] == EXPECTED
    assert sessions_of(write(tmp_path, TEXT, "log.gz"))[0] == EXPECTED
    members = {"log.csv": TEXT, "__MACOSX/log.csv": "x", ".DS_Store": "x"}
    assert sessions_of(zip_of(tmp_path / "log.dat", members))[0] == EXPECTED
    rows = [("u", "a", 1), ("u", "b", 2), ("v", "b", 1), ("v", "a", 2)]
    assert sessions_of(write_parquet(tmp_path / "log.txt", rows))[0] == EXPECTED
    assert sessions_of(write(tmp_path, b"\xef\xbb\xbf" + TEXT.encode()))[0] == EXPECTED


def test_any_other_log_is_read_with_columns(tmp_path):
    log = write(tmp_path, "7|x\n".replace("|", ";") + "u;2\n")
    with pytest.raises(ConvertError, match="--columns one,two"):
        convert(log, tmp_path / "out", columns="one,two")
    log = write(tmp_path, "x::1::9::u::a\nx::3::9::v::b\nx::2::9::u::b\nx::4::9::v::a\n")
    sessions, summary = sessions_of(log, columns="-,time,-,user,item")
    assert sessions == EXPECTED and "user = column 4, item = column 5, time = column 2" in str(summary)
    assert sessions_of(write(tmp_path, "u,a, b,c,\nv,c,a\n"), columns="user,items")[0] == [["a", "b", "c"], ["c", "a"]]
    log = write(tmp_path, 'u,9,"a, b",c\nv,8,c,d\n')
    assert sessions_of(log, columns="user,-,items")[0] == [["a, b", "c"], ["c", "d"]]


def test_lines_of_equal_length_need_columns(tmp_path):
    log = write(tmp_path, "1 10 30 20\n2 30 10 20\n")
    with pytest.raises(ConvertError, match="or --columns user,items if each line is a user and its items"):
        convert(log, tmp_path / "out")
    assert sessions_of(log, columns="user,items")[0] == [["10", "30", "20"], ["30", "10", "20"]]


def test_a_list_in_a_column_of_a_parquet_file(tmp_path):
    frame = pl.DataFrame({"user": ["u", "v"], "item_id_list": [[1, 2], [4]], "item": [3, 1]})
    frame.write_parquet(tmp_path / "log.parquet")
    assert sessions_of(tmp_path / "log.parquet")[0] == [["1", "2", "3"], ["4", "1"]]
    log = write(tmp_path, 'user,item_id_list,item\nu,"[1, 2]",3\nv,[4],1\n')
    assert sessions_of(log)[0] == [["1", "2", "3"], ["4", "1"]]


def test_prefix_rows_of_a_test_log_stay_in_it(tmp_path):
    head = "session_id\titem_id_list\titem_id\n"
    train = write(tmp_path, f"{head}1\t5\t6\n2\t6 7\t5\n3\t6\t7\n", "train.inter")
    test = write(tmp_path, f"{head}1\t5 6\t7\n", "test.inter")
    convert(train, tmp_path / "out", test_log=test)
    assert sequences(tmp_path / "out") == [[[5, 6], [6, 7, 5]], [[5, 6, 7]]]
