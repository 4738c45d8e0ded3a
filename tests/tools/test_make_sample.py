"""make_sample: the layout and the labels of the set, the same bytes for the same options, and nothing else replaced."""

import json
from collections import Counter
from pathlib import Path
from random import Random

import pandas as pd
import pytest
from PIL import Image

from tools import make_sample as sample
from tools.portrait import make_person, make_shot, paint
from utils import UserError

SMALL = {"people": 12, "eval_people": 3, "seed": 5}


def table(path: Path) -> list[dict[str, str]]:
    return pd.read_csv(path, dtype=str).to_dict("records")


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def make(root: Path, **changes: int) -> bool:
    return sample.make_sample(root, **{**SMALL, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample") / "input"
    assert make(root)
    return root


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets of blank images, for tests of what happens to files."""
    blank = Image.new("RGB", (384, 512), "white")
    monkeypatch.setattr(sample, "paint", lambda person, shot: blank)
    monkeypatch.setitem(SMALL, "people", 2)
    monkeypatch.setitem(SMALL, "eval_people", 1)


def test_layout_of_the_people_to_train_on(made):
    rows = table(made / "data/train/train.csv")
    assert list(rows[0]) == ["id", "gender", "race", "age", "path"]
    assert [row["id"] for row in rows] == [f"{k:06d}" for k in range(1, 13)]
    for row in rows:
        assert row["path"] == "_".join((row["id"], row["gender"], row["race"], row["age"]))
        names = sorted(path.stem for path in (made / "data/train/images" / row["path"]).iterdir())
        assert names == ["incorrect_mask", "mask1", "mask2", "mask3", "mask4", "mask5", "normal"]
    assert {path.name for path in (made / "data/train/images").iterdir()} == {row["path"] for row in rows}


def test_every_image_is_a_portrait_of_384_by_512(made):
    images = [path for path in (made / "data").rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    assert len(images) == 15 * 7
    for path in images:
        with Image.open(path) as image:
            image.load()
            assert (image.size, image.mode) == ((384, 512), "RGB")
            assert image.format == ("PNG" if path.suffix == ".png" else "JPEG")
    assert {path.suffix for path in images} == {".jpg", ".jpeg", ".JPG", ".png"}
    with Image.open(made / "contact_sheet.jpg") as sheet:
        sheet.load()
        assert min(sheet.size) > 500


def test_answers_lie_outside_data_and_match_the_submission(made):
    info, answers = table(made / "data/info.csv"), table(made / "answers.csv")
    assert [row["ImageID"] for row in info] == [row["ImageID"] for row in answers]
    assert {row["ans"] for row in info} == {"0"}
    assert {row["ImageID"] for row in info} == {path.name for path in (made / "data/images").iterdir()}
    people = sample.choose_subjects(SMALL["seed"], "eval", SMALL["eval_people"])
    shots = [0] * 5 + [1, 2]
    expected = Counter(str(6 * mask + 3 * p.gender + p.stratum[1]) for p in people for mask in shots)
    assert Counter(row["ans"] for row in answers) == expected
    assert [row["ImageID"] for row in info] != sorted(row["ImageID"] for row in info)


def test_same_seed_same_bytes_however_many_processes(tmp_path):
    for workers in (1, 2):
        make(tmp_path / str(workers), workers=workers, people=2, eval_people=1)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_another_seed_draws_other_people():
    for seed, split in ((2, "train"), (1, "eval")):
        assert sample.choose_subjects(1, "train", 30) != sample.choose_subjects(seed, split, 30)


@pytest.mark.parametrize("people", [12, 60, 100, 300, 2700])
def test_strata_are_as_scarce_as_in_the_real_set(people):
    counts = sample.count_strata(people)
    assert sum(counts.values()) == people
    assert min(counts.values()) >= (5 if people >= 100 else 1)
    if people >= 300:
        assert all(abs(counts[stratum] - people * share) <= 1 for stratum, share in sample.STRATA.items())


def test_ages_fill_their_groups_up_to_the_bounds():
    people = sample.choose_subjects(0, "train", 300)
    assert Counter(p.stratum for p in people) == sample.count_strata(300)
    ages = Counter(p.age for p in people)
    assert min(ages) >= 18 and max(ages) <= 75
    assert all(ages[age] for age in (28, 29, 58, 59, 60))
    assert len(ages) > 45


def test_a_person_keeps_the_face_and_changes_the_rest():
    person = make_person(1, 30, Random(1))
    shots = [make_shot(person, wearing, Random(k)) for k, wearing in enumerate(("worn", "wrong", "bare"))]
    assert (shots[0].placing, shots[2].placing) == ("worn", "bare")
    assert paint(person, shots[0]).tobytes() == paint(person, shots[0]).tobytes()
    assert paint(person, shots[0]).tobytes() != paint(person, shots[2]).tobytes()


def test_every_way_of_wearing_it_wrongly_turns_up():
    person = make_person(0, 40, Random(2))
    ways = {make_shot(person, "wrong", Random(k)).placing for k in range(200)}
    assert ways == {"nose_out", "chin", "one_ear", "high", "eyes"}


@pytest.mark.parametrize("name", ["data/train/images/000001_female_Asian_45/normal.jpg", "answers.csv"])
def test_files_that_are_not_of_a_sample_set_are_never_replaced(tmp_path, quick, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"real")
    for force in (False, True):
        with pytest.raises(UserError, match=rf"{name.split('/')[0]} is not part of a sample set.*--root"):
            make(tmp_path, force=force)
    assert contents(tmp_path) == {name: b"real"}


def test_a_link_to_real_data_is_never_replaced(tmp_path, quick):
    (tmp_path / "real").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "real")
    with pytest.raises(UserError, match="data is not part of a sample set"):
        make(tmp_path, force=True)
    assert (tmp_path / "data").is_symlink()


def test_the_same_set_is_not_drawn_again(tmp_path, quick, monkeypatch):
    assert make(tmp_path)
    monkeypatch.setattr(sample, "draw_set", lambda *_: pytest.fail("drawn again"))
    assert not make(tmp_path)


def test_other_settings_need_force(tmp_path, quick):
    make(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UserError, match="--force"):
        make(tmp_path, seed=6)
    assert contents(tmp_path) == before
    assert make(tmp_path, seed=6, force=True)
    assert json.loads((tmp_path / sample.MARKER).read_text())["settings"]["seed"] == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(sample.PARTS)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("force", [False, True])
def test_an_interrupted_run_changes_nothing(tmp_path, quick, monkeypatch, force):
    if force:
        make(tmp_path)
    before = contents(tmp_path)
    monkeypatch.setattr(sample, "write_contact_sheet", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, seed=6, force=force)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_a_run_killed_while_it_moves_a_set_into_place_can_be_repeated(tmp_path, quick, monkeypatch, moves):
    make(tmp_path)
    replace, done = sample.os.replace, []

    def replace_some(source: Path, target: Path) -> None:
        if len(done) == moves and Path(target).name != Path(sample.MARKER).name:
            raise KeyboardInterrupt
        done.extend([target] if Path(target).parent == tmp_path else [])
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(sample.os, "replace", replace_some)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path, seed=6, force=True)
    assert make(tmp_path, seed=6, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(sample.PARTS)


def test_the_command_prints_what_it_did(tmp_path, run):
    words = ["make_sample", "--root", tmp_path, "--people", 12, "--eval-people", 3, "--num-workers", 1]
    assert "12 people to train on (84 images), 3 to predict (21 images)" in run(*words).out
    assert "already" in run(*words).out
    run(*words, "--seed", 9).assert_error("--force")
