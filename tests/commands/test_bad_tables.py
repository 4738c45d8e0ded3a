"""CSV files: info.csv, train.csv, corrections and submissions, whole and broken."""

from __future__ import annotations

import os
import shutil
import unicodedata

import pandas as pd
import pytest
from cases import (
    GOOD,
    TRAINING,
    Case,
    dangling,
    folder,
    give_case,
    listing,
    people_csv,
    put,
    rows,
)


def info(id, pattern, content, *, code=2, lines=1):
    """A row of info.csv: `content(world)` is its text or bytes, or None when it was put there.

    What is read goes through one command, what is refused through both.
    """

    def breaks(world):
        made = content(world)
        if made is not None:
            put(world.info, made)

    return Case(id, "submit_singular", pattern, breaks, code=code, lines=lines)


def renamed(world, old, new):
    """info.csv that spells the first id `old`, of a file that is called `new`."""
    (world.images / world.ids[0]).rename(world.images / new)
    return listing(old, *world.ids[1:])


SPELLED = r"1 id spelled differently from the file .*: "
COMPOSED, APART = (unicodedata.normalize(form, "사진é.jpg") for form in ("NFC", "NFD"))
LONG = "x" * 196 + ".jpg"


@rows(
    info(
        "info with more columns",
        "",
        lambda w: "no,ImageID,ans\n" + "".join(f"{k},{n},0\n" for k, n in enumerate(w.ids)),
        code=0,
    ),
    info("info without ans", "", lambda w: "ImageID\n" + "\n".join(w.ids), code=0),
    info("info with a byte-order mark", "", lambda w: "\ufeff" + listing(*w.ids), code=0),
    info("info with CRLF", "", lambda w: listing(*w.ids).replace("\n", "\r\n"), code=0),
    info("info with CR", "", lambda w: listing(*w.ids).replace("\n", "\r"), code=0),
    info("info without a last line end", "", lambda w: listing(*w.ids).rstrip(), code=0),
    info("info with quotes and commas", "", lambda w: renamed(w, '"a, b.jpg"', "a, b.jpg"), code=0),
    info("info with long rows", "", lambda w: listing(*w.ids).replace(",0", ",0,more,and more"), code=0),
    info("info in UTF-16", r"info\.csv is not UTF-8", lambda w: listing(*w.ids).encode("utf-16")),
    info("info in UTF-16 without a mark", r"info\.csv is not UTF-8|NUL", lambda w: listing(*w.ids).encode("utf-16-le")),
    info("info in cp949", r"info\.csv is not UTF-8", lambda w: renamed(w, "사진.jpg", "사진.jpg").encode("cp949")),
    info("info with NUL in an id", r"info\.csv", lambda w: listing(w.ids[0] + "\0", *w.ids[1:])),
    info("info with zeros at its end", r"info\.csv", lambda w: listing(*w.ids).encode() + bytes(512)),
    info("info with a column twice", r"has the column ImageID more than once", lambda w: "ImageID,ImageID\na,b\n"),
    info("info that is empty", r"info\.csv has no column ImageID", lambda w: ""),
    info("info without a first line", r"info\.csv has no column ImageID", lambda w: listing(*w.ids).split("\n", 1)[1]),
    info("info with semicolons", r"info\.csv has no column ImageID", lambda w: listing(*w.ids).replace(",", ";")),
    info("an id twice", r"1 id listed twice in .*info\.csv: \w+\.jpg\.$", lambda w: listing(*w.ids, w.ids[0])),
    info(
        "an empty id", r"1 row of .*info\.csv without an ImageID: line 3\.", lambda w: listing(w.ids[0], "", w.ids[1])
    ),
    info("ids of spaces", r"2 rows .* without an ImageID: line 3, line 4\.", lambda w: listing(w.ids[0], " ", "\t")),
    info(
        "an empty id below an empty line",
        r"1 row of .*info\.csv without an ImageID: line 4\.",
        lambda w: f"ImageID,ans\n{w.ids[0]},0\n\n,0\n{w.ids[1]},0\n",
    ),
    info("an id that leads outside", r"1 id .* outside of .*images: \.\./x\.jpg\.", lambda w: listing("../x.jpg")),
    info("an id of Windows that does", r"1 id .* outside of .*images: \.\.\\x\.jpg\.", lambda w: listing("..\\x.jpg")),
    info("an absolute path", r"1 id .* outside of .*images: /.*\.jpg\.", lambda w: listing(w.images / w.ids[0])),
    info("an extension of other case", SPELLED + r"a\.JPG\.", lambda w: renamed(w, "a.JPG", "a.jpg"), code=0),
    info("a file of other case", SPELLED + r"a\.jpg\.", lambda w: renamed(w, "a.jpg", "a.Jpg"), code=0),
    info("a composed id", SPELLED + COMPOSED, lambda w: renamed(w, COMPOSED, APART), code=0),
    info("a composed file", SPELLED + APART, lambda w: renamed(w, APART, COMPOSED), code=0),
    info("spaces around an id", SPELLED + r" a\.jpg ", lambda w: renamed(w, " a.jpg ", "a.jpg"), code=0),
    info(
        "two ids of one file",
        r"1 image of two ids of .*info\.csv: a\.jpg\.",
        lambda w: renamed(w, "a.JPG", "a.jpg") + "a.jpg,0\n",
    ),
    info(
        "an id of two files",
        r"1 id of .*info\.csv .*: a\.JPG\.",
        lambda w: put(w.images / "a.Jpg", (w.images / w.ids[1]).read_bytes()) and renamed(w, "a.JPG", "a.jpg"),
    ),
    info("a name of 200 characters", "", lambda w: renamed(w, LONG, LONG), code=0),
    info("a field of 200000 characters", r"info\.csv cannot be read as CSV \(field", lambda w: listing("x" * 200_000)),
    info("an id of 100000 characters", r"info\.csv", lambda w: listing("x" * 100_000)),
    info("an open quote", r"info\.csv", lambda w: 'ImageID,ans\n"' + "\n".join(w.ids)),
    info(
        "all of it at once",
        r"twice.*\n.*without an image",
        lambda w: listing("", w.ids[0], w.ids[0], "../x", "y.jpg"),
        lines=4,
    ),
    info("info that is a folder", r"info\.csv", lambda w: folder(w.info)),
    info("info that is a dangling link", r"info\.csv", lambda w: dangling(w.info)),
    info(
        "a name that is not Unicode",
        r"1 image in .* does not list, left out",
        lambda w: shutil.copy(w.images / w.ids[0], os.fsencode(w.images) + b"/\xbb\xe7.jpg") and listing(*w.ids),
        code=0,
    ),
    info(
        "an id that is not Unicode",
        r"UTF-8|name",
        lambda w: shutil.copy(w.images / w.ids[0], os.fsencode(w.images) + b"/\xbb\xe7.jpg") and w.info.unlink(),
    ),
)
def test_info_csv(case, command, world, give):
    give_case(give, case, command, world)
    if case.code == 0:
        assert len(pd.read_csv(sorted(world.prediction.rglob("submission*.csv"))[0])) == 3


@pytest.mark.parametrize("command", ["submit_ensemble"])
def test_info_csv_that_is_a_pipe(command, world, give, pipe):
    pipe(world.info)
    give(command, pattern=r"info\.csv")


def table(id, pattern, content, *, code=2, lines=1):
    """A row of train.csv of which `content(world)` is the text or bytes."""
    return Case(id, "check_data", pattern, lambda world: put(world.train_csv, content(world)), code=code, lines=lines)


def rename_person(world, new):
    world.data.folder(0).rename(world.train / new)


WRONG = r"1 row of train\.csv whose id, gender, age \(0 to 120\) or path cannot be read: 000001_"
COLUMNS = "has no column id, gender, age, path"
COMPOSED_RACE, APART_RACE = (unicodedata.normalize(form, "000001_male_Café_20") for form in ("NFC", "NFD"))


@rows(
    table("train.csv with more columns", "", lambda w: people_csv(w, more=1), code=0),
    table("train.csv with a byte-order mark", "", lambda w: "\ufeff" + people_csv(w), code=0),
    table("train.csv with CRLF", "", lambda w: people_csv(w).replace("\n", "\r\n"), code=0),
    table("train.csv with quotes and commas", "", lambda w: people_csv(w, race='"Asian, ""East"""'), code=0),
    table("train.csv with spaces", "", lambda w: people_csv(w, gender=" male ", age=" 20 "), code=0),
    table("train.csv with decimals", "", lambda w: people_csv(w, age="20.0"), code=0),
    table("train.csv with only a first line", "", lambda w: "id,gender,race,age,path\n", code=0),
    table("train.csv without gender", r"has no column gender. Its", lambda w: people_csv(w).replace("gender", "sex")),
    table("train.csv that is empty", COLUMNS, lambda w: ""),
    table("train.csv in UTF-16", r"train\.csv is not UTF-8", lambda w: people_csv(w).encode("utf-16")),
    table("train.csv in cp949", r"train\.csv is not UTF-8", lambda w: people_csv(w, race="아시아").encode("cp949")),
    table("train.csv with NUL", r"train\.csv", lambda w: people_csv(w, gender="male\0")),
    table("train.csv with a column twice", r"has the column age more", lambda w: people_csv(w).replace("race", "age")),
    table(
        "a field of train.csv too long",
        r"train\.csv cannot be read as CSV",
        lambda w: people_csv(w, race="x" * 200_000),
    ),
    table("age n/a", WRONG, lambda w: people_csv(w, age="n/a")),
    table("age empty", WRONG, lambda w: people_csv(w, age="")),
    table("age 200", WRONG, lambda w: people_csv(w, age=200)),
    table("age -3", WRONG, lambda w: people_csv(w, age=-3)),
    table("age 25.5", WRONG, lambda w: people_csv(w, age=25.5)),
    table("age of superscripts", WRONG, lambda w: people_csv(w, age="²5")),
    table("age of 5000 digits", WRONG, lambda w: people_csv(w, age="9" * 5000)),
    table("age 0", r"1 folder of people aged 0, .*: 000001_male_Asian_20\.", lambda w: people_csv(w, age=0), code=0),
    table("an unknown gender", WRONG, lambda w: people_csv(w, gender="m")),
    table("an empty person", WRONG, lambda w: people_csv(w, id="")),
    table("an empty folder name", r"cannot be read: 000001\.", lambda w: people_csv(w, path="")),
    table("an empty row", r"cannot be read: line 8\.", lambda w: people_csv(w, dict.fromkeys(("id", "path"), ""))),
    table(
        "an empty row below an empty line",
        r"cannot be read: line 9\.",
        lambda w: people_csv(w, {"id": "\n", "path": ""}),
    ),
    table(
        "rows that say the opposite",
        r"1 row of train\.csv that contradict an earlier row: 000001_male_Asian_20\.",
        lambda w: people_csv(w, {"age": 61}),
    ),
    table("rows that say the same", "", lambda w: people_csv(w, {}), code=0),
    table(
        "another age than the folder",
        r"1 folder whose name and train\.csv disagree",
        lambda w: people_csv(w, age=50),
        code=0,
    ),
    table(
        "rows without a folder", r"1 row in train\.csv without a folder", lambda w: people_csv(w, {"path": "x"}), code=0
    ),
    table(
        "a folder that leads outside", r"1 row in train\.csv without", lambda w: people_csv(w, {"path": "../x"}), code=0
    ),
    Case("train.csv that is a folder", TRAINING, r"train\.csv", lambda w: folder(w.train_csv)),
    Case("train.csv that is a dangling link", TRAINING, r"train\.csv", lambda w: dangling(w.train_csv)),
    Case(
        "a folder with age 200",
        TRAINING,
        r"1 folder whose age is not 0 to 120: 000001_male_Asian_200\.",
        lambda w: rename_person(w, "000001_male_Asian_200"),
    ),
    Case(
        "a folder with age 0",
        "check_data",
        r"1 folder of people aged 0, .*: 000001_male_Asian_0\.",
        lambda w: rename_person(w, "000001_male_Asian_0"),
        code=0,
    ),
    Case(
        "a folder with age n-a",
        TRAINING,
        r"1 folder whose name is not .*: 000001_male_Asian_na\.",
        lambda w: rename_person(w, "000001_male_Asian_na"),
    ),
    Case(
        "a folder with a name of 200 characters",
        "check_data",
        "",
        lambda w: rename_person(w, "1" * 186 + "_male_Asian_20"),
        code=0,
    ),
    Case(
        "a folder spelled apart",
        "check_data",
        r"^(?!(?s:.*)without a folder)",
        lambda w: rename_person(w, APART_RACE) or put(w.train_csv, people_csv(w, path=COMPOSED_RACE)),
        code=0,
    ),
    Case(
        "a file whose name is not Unicode",
        "check_data",
        r"1 file that this toolkit does not read",
        lambda w: shutil.copy(w.data.photo(0), os.fsencode(w.data.folder(0)) + b"/\xbb\xe7.txt"),
        code=0,
    ),
)
def test_train_csv(case, command, world, give):
    give_case(give, case, command, world)


def fix(id, pattern, content, *, code=2, lines=1):
    """A row of corrections; `content` is the text or bytes of the file, with a first line where it is a list."""
    text = (
        "id,gender,age,file,mask\n" + "".join(f"{row}\n" for row in content) if isinstance(content, list) else content
    )
    return Case(id, "check_data", pattern, lambda w: put(w.fix, text), "--corrections {fix}", code, lines)


CANNOT_APPLY = r"1 row of .*fix\.csv that cannot be applied \(.*\): line 2 \(000001\)"
CHANGED = r"Corrections of .*fix\.csv changed the labels of {} image"


@rows(
    fix("corrections with more columns", CHANGED.format(2), "id,gender,why\n000001,female,seen\n", code=0),
    fix("corrections with a byte-order mark", CHANGED.format(2), "\ufeffid,gender\n000001,female\n", code=0),
    fix("corrections with CRLF", CHANGED.format(2), "id,gender\r\n000001,female\r\n", code=0),
    fix("corrections with quotes and commas", CHANGED.format(2), 'id,gender,why\n000001,female,"a, b\nc"\n', code=0),
    fix("corrections with spaces", CHANGED.format(2), [" 000001 , Female ,,,"], code=0),
    fix("corrections with only a first line", CHANGED.format(0), [], code=0),
    fix("corrections that are empty", r"fix\.csv has no column id", ""),
    fix(
        "corrections without ids",
        r"fix\.csv has no column id. Its first line must name id",
        "person,gender\n000001,female\n",
    ),
    fix("corrections in UTF-16", r"fix\.csv is not UTF-8", "id,gender\n000001,female\n".encode("utf-16")),
    fix("corrections with NUL", r"fix\.csv", ["000001,fem\0ale,,,"]),
    fix("corrections with a column twice", r"more than once", "id,gender,gender\n000001,female,male\n"),
    fix(
        "corrections of two people who are not there",
        r"2 rows of .* do not exist: 9, 10\.",
        ["9,male,,,", "10,male,,,"],
    ),
    fix("corrections with age 200", CANNOT_APPLY, ["000001,,200,,"]),
    fix("corrections with age n/a", CANNOT_APPLY, ["000001,,n/a,,"]),
    fix("corrections with an age of 5000 digits", CANNOT_APPLY, [f"000001,,{'9' * 5000},,"]),
    fix("corrections with an age of superscripts", CANNOT_APPLY, ["000001,,²5,,"]),
    fix("corrections with an age with decimals", CANNOT_APPLY, ["000001,,21.5,,"]),
    fix("corrections with an unknown mask", CANNOT_APPLY, ["000001,,,normal,off"]),
    fix("corrections of a file that is not there", CANNOT_APPLY, ["000001,,,mask4,worn"]),
    fix("corrections of a mask without a file", CANNOT_APPLY, ["000001,,,,bare"]),
    fix("corrections of an unknown gender", CANNOT_APPLY, ["000001,man,,,"]),
    fix("corrections with an empty id", r"1 row of .*fix\.csv .*: line 3\.", ["000001,female,,,", ",male,,,"]),
    fix("corrections with an empty id below an empty line", r": line 4\.", ["000001,female,,,", "", ",male,,,"]),
    fix(
        "corrections that say the opposite",
        r"1 row of .*fix\.csv that contradict an earlier row: line 3 \(000001\)\.",
        ["000001,female,,,", "000001,male,,,"],
    ),
    fix(
        "corrections of a mask that say the opposite",
        r"1 row of .*fix\.csv that contradict an earlier row: line 3 \(000001\)\.",
        ["000001,,,normal,worn", "000001,,,normal.jpg,wrong"],
    ),
    fix(
        "corrections with everything wrong",
        r"do not exist: 9\.\n.*contradict.*line 4.*\n.*cannot be applied .*line 5",
        ["000001,female,,,", "9,male,,,", "000001,male,,,", "000002,,-1,,"],
        lines=3,
    ),
    Case("corrections that are a folder", TRAINING, r"fix\.csv", lambda w: folder(w.fix), "--corrections {fix}"),
    Case(
        "corrections that are gone",
        "check_data",
        r"no file .*fix\.csv",
        lambda w: dangling(w.fix),
        "--corrections {fix}",
    ),
)
def test_corrections(case, command, world, give):
    give_case(give, case, command, world)


def scored(id, pattern, printed, true=None, *, words="", code=2):
    """The text of the submission and of the answers; what is None stays good."""

    def breaks(world):
        for path, content in ((world.submission, printed), (world.answers, true)):
            if content is not None:
                put(path, content)

    return Case(id, "score_submission", pattern, breaks, words, code)


AGES = "ImageID,ans\na.jpg,20\nb.jpg,61.5\n"


@rows(
    scored("answers without ids", r"answers\.csv has no column ImageID", None, "image,ans\na.jpg,0\n"),
    scored("answers without answers", r"answers\.csv has no column ans", None, "ImageID,answer\na.jpg,0\n"),
    scored("answers without both", r"answers\.csv has no column ImageID, ans", None, "a.jpg,0\nb.jpg,1\n"),
    scored("answers that are empty", r"answers\.csv has no column ImageID, ans", None, ""),
    scored(
        "answers with a column twice", r"answers\.csv has the column ans more than", None, "ImageID,ans,ans\na,0,1\n"
    ),
    scored("answers in UTF-16", r"answers\.csv is not UTF-8", None, GOOD.encode("utf-16")),
    scored("answers with only a first line", r"answers\.csv holds no rows", None, "ImageID,ans\n"),
    scored("answers NaN", r"answers\.csv contains (nan|inf)", None, "ImageID,ans\na.jpg,nan\nb.jpg,1\n"),
    scored(
        "answers empty", r"answers\.csv holds an answer that is not a number", None, "ImageID,ans\na.jpg,\nb.jpg,1\n"
    ),
    scored("answers infinite", r"answers\.csv contains (nan|inf)", None, "ImageID,ans\na.jpg,1e999\nb.jpg,1\n"),
    scored(
        "answers of ages NaN",
        r"contains NaN or infinite values",
        AGES,
        AGES.replace("20", "nan"),
        words="--task age",
    ),
    scored(
        "submitted ages infinite",
        r"contains NaN or infinite values",
        AGES.replace("20", "inf"),
        AGES,
        words="--task age",
    ),
    scored(
        "answers of other images",
        r"do not list the same images: a\.jpg, c\.jpg\.",
        None,
        "ImageID,ans\nc.jpg,0\nb.jpg,1\n",
    ),
    scored("answers in surplus", r"do not list the same images: c\.jpg\.", None, GOOD + "c.jpg,0\n"),
    scored("answers twice", r"answers\.csv lists images twice: a\.jpg", None, GOOD + "a.jpg,0\n"),
    scored("a submission with NaN", r"submission\.csv contains (nan|inf)", "ImageID,ans\na.jpg,nan\nb.jpg,1\n"),
    scored("a submission with no columns", r"submission\.csv has no column ImageID, ans", "hello\n"),
    scored("a submission with in CRLF with a mark", "", "\ufeff" + GOOD.replace("\n", "\r\n"), code=0),
    scored("a submission with with more columns", "", "no,ImageID,ans\n0,a.jpg,0\n1,b.jpg,1\n", code=0),
    scored("a submission with in another order", "", "ImageID,ans\nb.jpg,1\na.jpg,0\n", code=0),
    Case("answers that are a folder", "score_submission", r"answers\.csv", lambda w: folder(w.answers)),
    Case("answers that are a dangling link", "score_submission", r"answers\.csv", lambda w: dangling(w.answers)),
    *(
        Case(
            f"a note of the prediction that is {content or 'empty'}",
            "score_submission",
            r"prediction\.json",
            lambda w, content=content: put(w.submission.with_name("prediction.json"), content),
        )
        for content in ("", "hello", "[]", "7")
    ),
)
def test_score_submission(case, command, world, give):
    give_case(give, case, command, world)
