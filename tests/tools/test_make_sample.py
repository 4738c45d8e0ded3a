import csv
import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from tools import make_sample as sample
from tools.__main__ import main as run_tool
from tools.portrait import make_person, make_shot, paint
from utils import UserError

SMALL = {"people": 12, "eval_people": 3, "seed": 5}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def settle(root: Path, **changes: int) -> dict:
    return sample.make_sample(root, **{**SMALL, "workers": 1, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample") / "input"
    settle(root)
    return root


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets whose pictures are blank, for tests of what happens to files."""
    blank = Image.new("RGB", (384, 512), "white")
    monkeypatch.setattr(sample, "paint", lambda person, shot: blank)
    monkeypatch.setitem(SMALL, "people", 2)
    monkeypatch.setitem(SMALL, "eval_people", 1)


def test_layout_of_the_people_to_train_on(made: Path) -> None:
    rows = table(made / "data/train/train.csv")
    assert list(rows[0]) == ["id", "gender", "race", "age", "path"]
    assert [row["id"] for row in rows] == [f"{k:06d}" for k in range(1, 13)]
    for row in rows:
        assert row["path"] == "_".join((row["id"], row["gender"], row["race"], row["age"]))
        names = sorted(path.stem for path in (made / "data/train/images" / row["path"]).iterdir())
        assert names == ["incorrect_mask", "mask1", "mask2", "mask3", "mask4", "mask5", "normal"]
    assert {path.name for path in (made / "data/train/images").iterdir()} == {row["path"] for row in rows}


def test_every_photograph_is_a_portrait_of_384_by_512(made: Path) -> None:
    photographs = [path for path in (made / "data").rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    assert len(photographs) == 15 * 7
    for path in photographs:
        with Image.open(path) as image:
            image.load()
            assert (image.size, image.mode) == ((384, 512), "RGB")
            assert image.format == ("PNG" if path.suffix == ".png" else "JPEG")
    assert {path.suffix for path in photographs} == {".jpg", ".jpeg", ".JPG", ".png"}


def test_answers_lie_outside_data_and_match_the_submission(made: Path) -> None:
    info, answers = table(made / "data/info.csv"), table(made / "answers.csv")
    assert [row["ImageID"] for row in info] == [row["ImageID"] for row in answers]
    assert {row["ans"] for row in info} == {"0"}
    assert {row["ImageID"] for row in info} == {path.name for path in (made / "data/images").iterdir()}
    people = sample.choose_people(SMALL["seed"], "eval", SMALL["eval_people"])
    shots = [0] * 5 + [1, 2]
    expected = Counter(str(6 * mask + 3 * p.gender + p.age_group) for p in people for mask in shots)
    assert Counter(row["ans"] for row in answers) == expected
    assert [row["ImageID"] for row in info] != sorted(row["ImageID"] for row in info)
    listed = list(json.loads((made / "data" / sample.MARKER).read_text())["files"])
    assert listed == sorted(listed)  # nor does the list of files tell, by its order, what was drawn when


def test_contact_sheet_can_be_opened(made: Path) -> None:
    with Image.open(made / "contact_sheet.jpg") as sheet:
        sheet.load()
        assert min(sheet.size) > 500


def test_same_seed_same_bytes_however_many_processes(tmp_path: Path) -> None:
    for workers in (1, 2):
        settle(tmp_path / str(workers), workers=workers, people=2, eval_people=1)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_another_seed_draws_other_people() -> None:
    assert sample.choose_people(1, "train", 30) != sample.choose_people(2, "train", 30)
    assert sample.choose_people(1, "train", 30) != sample.choose_people(1, "eval", 30)


@pytest.mark.parametrize("people", [12, 60, 100, 300, 2700])
def test_strata_are_as_scarce_as_in_the_real_set(people: int) -> None:
    counts = sample.share_out(people)
    assert sum(counts.values()) == people
    assert min(counts.values()) >= (5 if people >= 100 else 1)
    if people >= 300:
        assert all(abs(counts[stratum] - people * share) <= 1 for stratum, share in sample.STRATA.items())


def test_ages_fill_their_groups_up_to_the_bounds() -> None:
    people = sample.choose_people(0, "train", 300)
    assert Counter((p.gender, p.age_group) for p in people) == sample.share_out(300)
    ages = Counter(p.age for p in people)
    assert min(ages) >= 18 and max(ages) <= 75
    assert all(ages[age] for age in (28, 29, 58, 59, 60))
    assert len(ages) > 45


def test_a_person_keeps_the_face_and_changes_the_rest() -> None:
    person = make_person(1, 30, Random(1))
    shots = [make_shot(person, wearing, Random(k)) for k, wearing in enumerate(("worn", "wrong", "bare"))]
    assert [shot.placing == wearing for shot, wearing in zip(shots, ("worn", "wrong", "bare"), strict=True)] == [
        True, False, True,
    ]  # fmt: skip
    assert paint(person, shots[0]).tobytes() == paint(person, shots[0]).tobytes()
    assert paint(person, shots[0]).tobytes() != paint(person, shots[2]).tobytes()


def test_every_way_of_wearing_it_wrongly_turns_up() -> None:
    person = make_person(0, 40, Random(2))
    ways = {make_shot(person, "wrong", Random(k)).placing for k in range(200)}
    assert ways == {"nose_out", "chin", "one_ear", "high", "eyes"}


def test_real_data_is_never_touched(tmp_path: Path, quick: None) -> None:
    photograph = tmp_path / "data/train/images/000001_female_Asian_45/normal.jpg"
    photograph.parent.mkdir(parents=True)
    photograph.write_bytes(b"real")
    before = contents(tmp_path)
    for force in (False, True):
        with pytest.raises(UserError, match="--root"):
            settle(tmp_path, force=force)
    assert contents(tmp_path) == before


def test_answers_of_somebody_else_are_never_touched(tmp_path: Path, quick: None) -> None:
    (tmp_path / "answers.csv").write_text("ImageID,ans\n")
    with pytest.raises(UserError, match=r"answers\.csv"):
        settle(tmp_path, force=True)
    assert contents(tmp_path) == {"answers.csv": b"ImageID,ans\n"}


def test_the_same_set_is_not_drawn_again(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settle(tmp_path)["drawn"]
    monkeypatch.setattr(sample, "draw_set", lambda *_: pytest.fail("drawn again"))
    assert not settle(tmp_path)["drawn"]


def test_other_settings_need_force(tmp_path: Path, quick: None) -> None:
    settle(tmp_path)
    with pytest.raises(UserError, match="--force"):
        settle(tmp_path, seed=6)
    assert settle(tmp_path, seed=6, force=True)["drawn"]
    assert json.loads((tmp_path / "data" / sample.MARKER).read_text())["settings"]["seed"] == 6
    assert not (tmp_path / sample.STAGE).exists()


def test_an_incomplete_set_needs_force(tmp_path: Path, quick: None) -> None:
    settle(tmp_path)
    (tmp_path / "data/info.csv").unlink()
    with pytest.raises(UserError, match="lacks 1"):
        settle(tmp_path)
    assert settle(tmp_path, force=True)["drawn"]


@pytest.mark.parametrize("name", ["data/train/notes.txt", "data/info.csv"])
def test_force_refuses_where_something_else_was_put_in(tmp_path: Path, quick: None, name: str) -> None:
    settle(tmp_path)
    (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=name.split("/")[-1]):
        settle(tmp_path, force=True)
    assert contents(tmp_path) == before


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sample, "write_contact_sheet", interrupt)
        with pytest.raises(KeyboardInterrupt):
            settle(tmp_path)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("moves", [0, 1, 2, 3])
def test_a_run_killed_while_moving_into_place_is_made_good(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    settle(tmp_path)
    replace, done = sample.os.replace, []

    def replace_some(source: Path, target: Path) -> None:
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(sample.os, "replace", replace_some)
        with pytest.raises(KeyboardInterrupt):
            settle(tmp_path, seed=6, force=True)
    made = settle(tmp_path, seed=6, force=moves == 0)
    assert made["drawn"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.csv", "contact_sheet.jpg", "data"]


def test_command_says_what_it_did(tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--root", str(tmp_path), "--people", "12", "--eval-people", "3", "--num-workers", "1"]
    assert run_tool(["make_sample", *words]) == 0
    assert "12 people" in capsys.readouterr().out
    assert run_tool(["make_sample", *words]) == 0
    assert "already" in capsys.readouterr().out
    assert run_tool(["make_sample", *words, "--seed", "9"]) == 2
    error = capsys.readouterr().err
    assert "--force" in error and error.count("\n") == 1
