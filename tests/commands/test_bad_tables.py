"""CSV files: info.csv, train.csv, corrections and submissions, whole and broken."""

import os
import shutil
import unicodedata

import pandas as pd
from broken import GOOD, dangling, folder, listing, people_csv, put
from cases import TRAINING, Case, give_case, rows


def info(id, pattern, content, *, code=2, lines=1):
    """A row of info.csv: `content(world)` is its text or bytes, or None if it writes the file itself."""

    def breaks(world):
        made = content(world)
        if made is not None:
            put(world.info, made)

    return Case(id, pattern, breaks, code=code, lines=lines)


def renamed(world, old, new):
    """Return an info.csv that spells the first id `old`, of a file that is called `new`."""
    (world.images / world.ids[0]).rename(world.images / new)
    return listing(old, *world.ids[1:])


def image_not_in_unicode(world):
    shutil.copy(world.images / world.ids[0], os.fsencode(world.images) + b"/\xbb\xe7.jpg")


def two_files_of_one_id(world):
    put(world.images / "a.Jpg", (world.images / world.ids[1]).read_bytes())
    return renamed(world, "a.JPG", "a.jpg")


SPELLED = r"1 id spelled differently from the file .*: "
OUTSIDE = r"1 id .* outside of .*images: "
COMPOSED, APART = (unicodedata.normalize(form, "사진é.jpg") for form in ("NFC", "NFD"))
WIDE = r"3 rows of .*info\.csv with more cells than its first line has names \(2\): line 2 \(4 cells\), "
LONG = "x" * 196 + ".jpg"


@rows(
    "submit_singular",
    info("columns in surplus", "", lambda w: "n,ImageID,ans\n" + "".join(f"1,{n},0\n" for n in w.ids), code=0),
    info("no ans", "", lambda w: "ImageID\n" + "\n".join(w.ids), code=0),
    info("a byte-order mark", "", lambda w: "\ufeff" + listing(*w.ids), code=0),
    info("CRLF", "", lambda w: listing(*w.ids).replace("\n", "\r\n"), code=0),
    info("CR", "", lambda w: listing(*w.ids).replace("\n", "\r"), code=0),
    info("no last line end", "", lambda w: listing(*w.ids).rstrip(), code=0),
    info("quotes and commas", "", lambda w: renamed(w, '"a, b.jpg"', "a, b.jpg"), code=0),
    info("empty cells at the end", "", lambda w: listing(*w.ids).replace(",0", ",0,, "), code=0),
    info("long rows", WIDE, lambda w: listing(*w.ids).replace(",0", ",0,more,and more")),
    info("UTF-16", r"info\.csv is not UTF-8", lambda w: listing(*w.ids).encode("utf-16")),
    info("UTF-16 without a mark", r"info\.csv is not UTF-8|NUL", lambda w: listing(*w.ids).encode("utf-16-le")),
    info("cp949", r"info\.csv is not UTF-8", lambda w: renamed(w, "사진.jpg", "사진.jpg").encode("cp949")),
    info("NUL in an id", r"info\.csv", lambda w: listing(w.ids[0] + "\0", *w.ids[1:])),
    info("zeros at its end", r"info\.csv", lambda w: listing(*w.ids).encode() + bytes(512)),
    info("a column twice", r"has the column ImageID more than once", lambda w: "ImageID,ImageID\na,b\n"),
    info("empty", r"info\.csv has no column ImageID", lambda w: ""),
    info("no first line", r"info\.csv has no column ImageID", lambda w: listing(*w.ids).split("\n", 1)[1]),
    info("semicolons", "", lambda w: listing(*w.ids).replace(",", ";"), code=0),
    info("tabs", "", lambda w: listing(*w.ids).replace(",", "\t"), code=0),
    info("ids with semicolons", "", lambda w: renamed(w, "a;b;c.jpg", "a;b;c.jpg"), code=0),
    info("an id twice", r"1 id listed twice in .*info\.csv: \w+\.jpg\.$", lambda w: listing(*w.ids, w.ids[0])),
    info("an empty id", r"1 row of .*info\.csv without an ImageID: line 3\.", lambda w: listing(w.ids[0], "")),
    info("ids of spaces", r"2 rows .* without an ImageID: line 3, line 4\.", lambda w: listing(w.ids[0], " ", "\t")),
    info("an empty id and line", r"1 row .* without an ImageID: line 4\.", lambda w: listing(w.ids[0], "\n", w.ids[1])),
    info("an id that leads outside", OUTSIDE + r"\.\./x\.jpg\.", lambda w: listing("../x.jpg")),
    info("an id of Windows that does", OUTSIDE + r"\.\.\\x\.jpg\.", lambda w: listing("..\\x.jpg")),
    info("an absolute path", OUTSIDE + r"/.*\.jpg\.", lambda w: listing(w.images / w.ids[0])),
    info("an extension of other case", SPELLED + r"a\.JPG\.", lambda w: renamed(w, "a.JPG", "a.jpg"), code=0),
    info("a file of other case", SPELLED + r"a\.jpg\.", lambda w: renamed(w, "a.jpg", "a.Jpg"), code=0),
    info("a composed id", SPELLED + COMPOSED, lambda w: renamed(w, COMPOSED, APART), code=0),
    info("a composed file", SPELLED + APART, lambda w: renamed(w, APART, COMPOSED), code=0),
    info("spaces around an id", SPELLED + r" a\.jpg ", lambda w: renamed(w, " a.jpg ", "a.jpg"), code=0),
    info("two ids of one file", r"1 image of two ids .*: a\.jpg\.", lambda w: renamed(w, "a.JPG\na.jpg", "a.jpg")),
    info("an id of two files", r"1 id of .*info\.csv .*: a\.JPG\.", two_files_of_one_id),
    info("a name of 200 characters", "", lambda w: renamed(w, LONG, LONG), code=0),
    info("a field of 200000 characters", r"info\.csv cannot be read as CSV \(field", lambda w: listing("x" * 200_000)),
    info("an id of 100000 characters", r"info\.csv", lambda w: listing("x" * 100_000)),
    info("an open quote", r"info\.csv .* Check line 2,", lambda w: 'ImageID,ans\n"' + "\n".join(w.ids)),
    info(
        "all at once", r"twice.*\n.*without an image", lambda w: listing("", *w.ids[:1] * 2, "../x", "y.jpg"), lines=4
    ),
    info("a folder", r"info\.csv", lambda w: folder(w.info)),
    info("a dangling link", r"info\.csv", lambda w: dangling(w.info)),
    info("a name not in Unicode", r"1 image in .* does not list, left out", image_not_in_unicode, code=0),
    info("an id not in Unicode", r"UTF-8|name", lambda w: image_not_in_unicode(w) or w.info.unlink()),
)
def test_info_csv(case, command, world, give):
    give_case(give, case, command, world)
    if case.code == 0:
        assert len(pd.read_csv(sorted(world.prediction.rglob("submission*.csv"))[0])) == 3


def test_info_csv_that_is_a_pipe(world, give, pipe):
    pipe(world.info)
    give("submit_ensemble", pattern=r"info\.csv")


def table(id, pattern, content, *, code=2):
    """A row of train.csv of which `content(world)` is the text or bytes."""
    return Case(id, pattern, lambda world: put(world.train_csv, content(world)), code=code)


def rename_person(world, new):
    world.data.folder(0).rename(world.train / new)


def spell_a_folder_apart(world):
    rename_person(world, APART_RACE)
    put(world.train_csv, people_csv(world, path=COMPOSED_RACE))


def text_not_in_unicode(world):
    shutil.copy(world.data.photo(0), os.fsencode(world.data.folder(0)) + b"/\xbb\xe7.txt")


def person_of_age(age, pattern, *, to="check_data", code=0):
    name = f"000001_male_Asian_{age}"
    return Case(f"a folder with age {age}", rf"{pattern}: {name}\.", lambda w: rename_person(w, name), to=to, code=code)


WRONG = r"1 row of train\.csv whose id, gender, age \(0 to 120\) or path cannot be read: 000001_"
WRONG_VALUES = [("gender", "m"), ("id", ""), *(("age", age) for age in ("n/a", "", 200, -3, 25.5, "²5", "9" * 5000))]
COLUMNS = "has no column id, gender, age, path"
WITHOUT = r"1 row in train\.csv without a folder"
COMPOSED_RACE, APART_RACE = (unicodedata.normalize(form, "000001_male_Café_20") for form in ("NFC", "NFD"))
CONTRADICTS = r"1 row of train\.csv that contradict an earlier row: "
NO_PERSON = {"id": "", "path": ""}


@rows(
    "check_data",
    table("more columns", "", lambda w: people_csv(w, more=1), code=0),
    table("a byte-order mark", "", lambda w: "\ufeff" + people_csv(w), code=0),
    table("CRLF", "", lambda w: people_csv(w).replace("\n", "\r\n"), code=0),
    table("quotes and commas", "", lambda w: people_csv(w, race='"Asian, ""East"""'), code=0),
    table("spaces", "", lambda w: people_csv(w, gender=" male ", age=" 20 "), code=0),
    table("decimals", "", lambda w: people_csv(w, age="20.0"), code=0),
    table("semicolons", r"train\.csv disagree", lambda w: people_csv(w, age=50).replace(",", ";"), code=0),
    table("only a first line", "", lambda w: "id,gender,race,age,path\n", code=0),
    table("no gender", r"has no column gender. Its", lambda w: people_csv(w).replace("gender", "sex")),
    table("empty", COLUMNS, lambda w: ""),
    table("UTF-16", r"train\.csv is not UTF-8", lambda w: people_csv(w).encode("utf-16")),
    table("cp949", r"train\.csv is not UTF-8", lambda w: people_csv(w, race="아시아").encode("cp949")),
    table("NUL", r"train\.csv", lambda w: people_csv(w, gender="male\0")),
    table("a column twice", r"has the column age more", lambda w: people_csv(w).replace("race", "age")),
    table("too long a field", r"train\.csv cannot be read as CSV", lambda w: people_csv(w, race="x" * 200_000)),
    *(
        table(f"{name} {value!s:.9}", WRONG, lambda w, name=name, value=value: people_csv(w, **{name: value}))
        for name, value in WRONG_VALUES
    ),
    table("age 0", r"1 folder of people aged 0, .*: 000001_male_Asian_20\.", lambda w: people_csv(w, age=0), code=0),
    table("an empty folder name", r"cannot be read: 000001\.", lambda w: people_csv(w, path="")),
    table("an empty row", r"cannot be read: line 8\.", lambda w: people_csv(w, NO_PERSON)),
    table("an empty row and line", r"cannot be read: line 9\.", lambda w: people_csv(w, {"id": "\n", "path": ""})),
    table("contradicting rows", CONTRADICTS + r"000001_male_Asian_20\.", lambda w: people_csv(w, {"age": 61})),
    table("rows that say the same", "", lambda w: people_csv(w, {}), code=0),
    table("another age", r"1 folder whose name and train\.csv disagree", lambda w: people_csv(w, age=50), code=0),
    table("no folder", WITHOUT, lambda w: people_csv(w, {"path": "x"}), code=0),
    table("a folder that leads outside", WITHOUT, lambda w: people_csv(w, {"path": "../x"}), code=0),
    Case("a folder for train.csv", r"train\.csv", lambda w: folder(w.train_csv), to=TRAINING),
    Case("a dangling link", r"train\.csv", lambda w: dangling(w.train_csv), to=TRAINING),
    person_of_age("200", "1 folder whose age is not 0 to 120", to=TRAINING, code=2),
    person_of_age("na", "1 folder whose name is not .*", to=TRAINING, code=2),
    person_of_age("0", "1 folder of people aged 0, .*"),
    Case("a long folder name", "", lambda w: rename_person(w, "1" * 186 + "_male_Asian_20"), code=0),
    Case("a folder spelled apart", r"^(?!(?s:.*)without a folder)", spell_a_folder_apart, code=0),
    Case("a file name not in Unicode", r"1 file that this toolkit does not read", text_not_in_unicode, code=0),
)
def test_train_csv(case, command, world, give):
    give_case(give, case, command, world)


def fix(id, pattern, content, *, code=2, lines=1):
    """A row of corrections; `content` is the text or bytes of the file, or its rows below a first line."""
    if isinstance(content, list):
        content = "".join(f"{row}\n" for row in ["id,gender,age,file,mask", *content])
    return Case(id, pattern, lambda w: put(w.fix, content), code=code, lines=lines)


CANNOT_APPLY = r"1 row of .*fix\.csv that cannot be applied \(.*\): line 2 \(000001\)"
NOT_APPLIED = [f",{age},," for age in ("200", "n/a", "9" * 5000, "²5", "21.5")]
NOT_APPLIED += [",,normal,off", ",,mask4,worn", ",,,bare", "man,,,"]
CHANGED = r"Corrections of .*fix\.csv changed the labels of {} image"
EVERYTHING = r"do not exist: 9\.\n.*contradict.*line 4.*\n.*cannot be applied .*line 5"
OPPOSITE = r"1 row of .*fix\.csv that contradict an earlier row: line 3 \(000001\)\."


@rows(
    "check_data",
    fix("more columns", CHANGED.format(2), "id,gender,why\n000001,female,seen\n", code=0),
    fix("a byte-order mark", CHANGED.format(2), "\ufeffid,gender\n000001,female\n", code=0),
    fix("CRLF", CHANGED.format(2), "id,gender\r\n000001,female\r\n", code=0),
    fix("quotes and commas", CHANGED.format(2), 'id,gender,why\n000001,female,"a, b\nc"\n', code=0),
    fix("an age with a comma", r"1 row of .*with more cells .* \(5\): line 3 ", ["000002,,30,,", "1,,21,5,,"]),
    fix("semicolons", CHANGED.format(2), "id;gender;age;file;mask\n000001;female;;;\n", code=0),
    fix("spaces", CHANGED.format(2), [" 000001 , Female ,,,"], code=0),
    fix("only a first line", CHANGED.format(0), [], code=0),
    fix("empty", r"fix\.csv has no column id", ""),
    fix("no ids", r"fix\.csv has no column id. Its first line must name id", "person,gender\n000001,female\n"),
    fix("UTF-16", r"fix\.csv is not UTF-8", "id,gender\n000001,female\n".encode("utf-16")),
    fix("NUL", r"fix\.csv", ["000001,fem\0ale,,,"]),
    fix("a column twice", r"more than once", "id,gender,gender\n000001,female,male\n"),
    fix("two people who do not exist", r"2 rows of .* do not exist: 9, 10\.", ["9,male,,,", "10,male,,,"]),
    fix("no leading zeros", r"exist: 9, 1\. Did you mean 000001\? Spreadsheets", ["9,male,,,", "1,,30,,"]),
    *(fix(f"wrong {row:.12}", CANNOT_APPLY, [f"000001,{row}"]) for row in NOT_APPLIED),
    fix("an empty id", r"1 row of .*fix\.csv .*: line 3\.", ["000001,female,,,", ",male,,,"]),
    fix("an empty id below an empty line", r": line 4\.", ["000001,female,,,", "", ",male,,,"]),
    fix("rows that say the opposite", OPPOSITE, ["000001,female,,,", "000001,male,,,"]),
    fix("masks that say the opposite", OPPOSITE, ["000001,,,normal,worn", "000001,,,normal.jpg,wrong"]),
    fix("everything wrong", EVERYTHING, ["000001,female,,,", "9,male,,,", "000001,male,,,", "000002,,-1,,"], lines=3),
    Case("a folder", r"fix\.csv", lambda w: folder(w.fix), to=TRAINING),
    Case("a dangling link", r"no file .*fix\.csv", lambda w: dangling(w.fix)),
)
def test_corrections(case, command, world, give):
    case.breaks(world)
    give(command, "--corrections {fix}", pattern=case.pattern, code=case.code, lines=case.lines)


def scored(id, pattern, *, submission=GOOD, answers=GOOD, words="--task main", code=2):
    """The text or bytes of a submission and of its answers."""

    def breaks(world):
        put(world.submission, submission)
        put(world.answers, answers)

    return Case(id, pattern, breaks, words, code=code)


def note(text):
    """A text in the place of the record of a prediction."""
    where = "prediction.json"
    return Case(f"a note that is {text or 'empty'}", where, lambda w: put(w.submission.with_name(where), text))


NOT_FINITE = r"{}\.csv contains (nan|inf)"
NO_COLUMN = r"answers\.csv has no column "
OTHER_IMAGES = "do not list the same images: "
AGES = "ImageID,ans\na.jpg,20\nb.jpg,61.5\n"
OF_AGES = {"pattern": "contains NaN or infinite values", "words": "--task age"}


@rows(
    "score_submission",
    scored("no ids", NO_COLUMN + "ImageID", answers="image,ans\na.jpg,0\n"),
    scored("no answers", NO_COLUMN + "ans", answers="ImageID,answer\na.jpg,0\n"),
    scored("neither", NO_COLUMN + "ImageID, ans", answers="a.jpg,0\nb.jpg,1\n"),
    scored("empty", NO_COLUMN + "ImageID, ans", answers=""),
    scored("a column twice", r"answers\.csv has the column ans more than", answers="ImageID,ans,ans\na,0,1\n"),
    scored("a name with a comma", r"1 row of .*: line 2 \(3 cells\)", answers=GOOD.replace("a.jpg", "a, b.jpg")),
    scored("UTF-16", r"answers\.csv is not UTF-8", answers=GOOD.encode("utf-16")),
    scored("only a first line", r"answers\.csv holds no rows", answers="ImageID,ans\n"),
    scored("NaN", NOT_FINITE.format("answers"), answers=GOOD.replace("a.jpg,0", "a.jpg,nan")),
    scored("no value", r"answers\.csv holds an answer that is not a number", answers=GOOD.replace("a.jpg,0", "a.jpg,")),
    scored("infinity", NOT_FINITE.format("answers"), answers=GOOD.replace("a.jpg,0", "a.jpg,1e999")),
    scored("ages with NaN", submission=AGES, answers=AGES.replace("20", "nan"), **OF_AGES),
    scored("infinite submitted ages", submission=AGES.replace("20", "inf"), answers=AGES, **OF_AGES),
    scored("other images", OTHER_IMAGES + r"a\.jpg, c\.jpg\.", answers=GOOD.replace("a.jpg", "c.jpg")),
    scored("images in surplus", OTHER_IMAGES + r"c\.jpg\.", answers=GOOD + "c.jpg,0\n"),
    scored("an image twice", r"answers\.csv lists images twice: a\.jpg", answers=GOOD + "a.jpg,0\n"),
    scored("submitted NaN", NOT_FINITE.format("submission"), submission=GOOD.replace("a.jpg,0", "a.jpg,nan")),
    scored("no columns", r"submission\.csv has no column ImageID, ans", submission="hello\n"),
    scored("CRLF and a mark", "", submission="\ufeff" + GOOD.replace("\n", "\r\n"), code=0),
    scored("more columns", "", submission="no,ImageID,ans\n0,a.jpg,0\n1,b.jpg,1\n", code=0),
    scored("another order", "", submission="ImageID,ans\nb.jpg,1\na.jpg,0\n", code=0),
    Case("a folder", r"answers\.csv", lambda w: folder(w.answers)),
    Case("a dangling link", r"answers\.csv", lambda w: dangling(w.answers)),
    *map(note, ("", "hello", "[]", "7")),
)
def test_score_submission(case, command, world, give):
    give_case(give, case, command, world)
