"""Labels that are likely wrong: confident learning on out-of-fold answers, by person and, for masks, by photograph.

What is found are suspects, to be looked at by a person: a network that takes somebody for older than they are finds
"errors" too. Torch is not imported.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from analysis.contact_sheet import Block, Cell, contact_sheet
from analysis.error_analysis import Answers, answers_of
from analysis.metrics import fit_temperature, tempered
from config import TrainConfig
from data.images import read_thumbnail
from data.tables import CORRECTION_COLUMNS, parse_person, read_corrections, read_training_table
from data.tasks import AGE_BOUNDS, GENDERS, MASKS, TASKS
from storage.run_folder import RunFolder, labels_and_predictions
from utils import UserError, atomic_write, write_text

SIDE, IN_LINE = 152, 7  # pixels of a photograph on the contact sheet, and photographs in a line: one person's shots
CORRECTIONS, CONTACT_SHEET = "corrections.csv", "suspects.jpg"  # in the folder of the run
OF_PEOPLE = ("gender", "ageg")  # what all photographs of a person share; how the mask is worn is of each alone
MORE_COLUMNS = ("labelled", "predicted", "suspicion")  # beside those of corrections, for who checks them
WRONG = 0.03  # share of wrong labels that is expected; 3.3 % was found in ten test sets (arXiv 2103.14749)
_FLOOR = 1e-6  # probabilities below are taken for this: one photograph alone never rules a class out
# ------------------------------------------------------------------------------------------------ confident learning


def pooled(probabilities: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """What the photographs of each group say together: the mean of their log probabilities, made to sum to 1.

    The mean, not the sum: photographs of one person are nearly the same picture, not independent evidence. How much it
    is worth is settled by `calibrated`.

    Args:
        probabilities: `(N, C)`. groups: `(N,) int64`, 0 to G - 1.

    Returns:
        `(G, C)` probabilities.
    """
    sums = np.zeros((groups.max() + 1, probabilities.shape[1]))
    np.add.at(sums, groups, np.log(np.maximum(probabilities, _FLOOR)))
    return tempered(np.exp(sums / np.bincount(groups)[:, None]), 1)


def calibrated(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The probabilities, sharpened or softened by the one temperature that gives the labels the least log loss.

    So genders and age groups, and the networks of different folds, can be compared (temperature scaling, Guo et al.
    2017, arXiv 1706.04599).

    Args:
        probabilities: `(G, C)` of one network. labels: `(G,) int64`.
    """
    return tempered(probabilities, fit_temperature(probabilities, labels, floor=_FLOOR), floor=_FLOOR)


def confident_classes(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The class that each row is confidently of, `(G,) int64`, or its label where it is of none.

    Confident is a class whose probability is at least the mean that the rows labelled so have of it; of several, the
    most probable (Northcutt, Jiang and Chuang 2021, doi 10.1613/jair.1.12125). Rows whose class is not their label lie
    off the diagonal of the paper's confident joint: they are the candidates for a wrong label.

    Args:
        probabilities: `(G, C)`, of networks that were not trained on the row. labels: `(G,) int64`.
    """
    count = probabilities.shape[1]
    mean = [probabilities[labels == k, k].mean() if (labels == k).any() else math.inf for k in range(count)]
    least = np.array(mean) - 1e-9  # where all have the same, the mean may be a last bit higher
    confident = np.where(probabilities >= least, probabilities, -1.0)
    return np.where(confident.max(axis=1) >= 0, confident.argmax(axis=1), labels)


def chance_right(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How probable it is that each label is right, `(G,)`, if WRONG of all labels are wrong, in any direction alike.

    Bayes' rule, with the calibrated `probabilities`, `(G, C)`, of the true class.
    """
    right = probabilities[np.arange(len(labels)), labels]
    wrong = (1 - right) / (probabilities.shape[1] - 1)  # of each other class, in the mean
    return (1 - WRONG) * right / ((1 - WRONG) * right + WRONG * wrong)


# ------------------------------------------------------------------------------------------------ suspects


def suspect_people(answers: Mapping[str, Answers], ids: Sequence[str], folds: Sequence[int]) -> pd.DataFrame:
    """How suspicious the labels of each person are, the most suspicious first.

    Args:
        answers: from `mistakes.answers_of`; of these gender and ageg are used, as far as they are there.
        ids: `(N,)` the id of the folder that each photograph is in, as corrections name it.
        folds: `(N,)` the fold whose network answered.

    Returns:
        A row for each id: id; of each attribute its label and the class that the photographs are confidently of
        (numbers, `gender` and `gender_told`, equal where there is nothing to suspect); and suspicion, 0 to 1: how
        probable it is that not all of these labels are right, see `chance_right`. Of photographs of one id with several
        labels the first counts.
    """
    return _suspects({name: answers[name] for name in OF_PEOPLE if name in answers}, ids, folds, "id")


def suspect_photographs(answers: Answers, images: Sequence[str], folds: Sequence[int]) -> pd.DataFrame:
    """How suspicious the mask label of each photograph is, the most suspicious first.

    Args:
        answers: those to the question of the mask. images: `(N,)` names of the photographs. folds: as there.

    Returns:
        As `suspect_people`: ImageID, mask, mask_told, suspicion.
    """
    return _suspects({"mask": answers}, images, folds, "ImageID")


def _suspects(answers: Mapping[str, Answers], names: Sequence[str], folds: Sequence[int], column: str) -> pd.DataFrame:
    unique, first, groups = np.unique(np.asarray(names, dtype=object), return_index=True, return_inverse=True)
    fold = np.asarray(folds)[first]
    table = pd.DataFrame({column: unique})
    all_right = np.ones(len(unique))
    for name, each in answers.items():
        labels, probabilities = each.labels[first], pooled(each.probabilities, groups)
        for number in np.unique(fold):
            rows = fold == number
            probabilities[rows] = calibrated(probabilities[rows], labels[rows])
        table[name], table[f"{name}_told"] = labels, confident_classes(probabilities, labels)
        all_right *= chance_right(probabilities, labels)
    table["suspicion"] = 1 - all_right
    return table.sort_values(["suspicion", column], ascending=[False, True], ignore_index=True)


def candidates(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table of suspects that are confidently of another class than they are labelled."""
    told = [name for name in table if name.endswith("_told")]
    other = np.any([table[name] != table[name.removesuffix("_told")] for name in told], axis=0)
    return table[other].reset_index(drop=True)


# ------------------------------------------------------------------------------------------------ corrections


def corrections_of(
    people: pd.DataFrame | None, photographs: pd.DataFrame | None, ids: Mapping[str, str]
) -> pd.DataFrame:
    """Suspects as rows of a file of corrections, people first, with columns for who checks them.

    Args:
        people: candidates of `suspect_people`, or None. photographs: those of `suspect_photographs`, or None.
        ids: the id of each photograph's folder.

    Returns:
        id, gender, age, file, mask as `--corrections` takes them, all strings, empty where nothing is suspected; and
        MORE_COLUMNS. An age is the one of the suggested group that is nearest to the group of the label, so that it is
        also nearest to the age that the person is labelled with.
    """
    rows, blank = [], dict.fromkeys(CORRECTION_COLUMNS, "")
    for row in [] if people is None else people.to_dict("records"):
        changed = {name: row[f"{name}_told"] for name in OF_PEOPLE if name in row and row[f"{name}_told"] != row[name]}
        fields = {"gender": GENDERS[changed["gender"]]} if "gender" in changed else {}
        if "ageg" in changed:
            fields["age"] = str(_nearest_age(row["ageg"], changed["ageg"]))
        rows.append({**blank, "id": row["id"], **fields, **_in_words(row)})
    for row in [] if photographs is None else photographs.to_dict("records"):
        image = row["ImageID"]
        fields = {"file": Path(image).stem, "mask": MASKS[row["mask_told"]]}
        rows.append({**blank, "id": ids[image], **fields, **_in_words(row)})
    return pd.DataFrame(rows, columns=[*CORRECTION_COLUMNS, *MORE_COLUMNS])


def _nearest_age(labelled: int, suggested: int) -> int:
    return AGE_BOUNDS[suggested - 1] if suggested > labelled else AGE_BOUNDS[suggested] - 1


def _in_words(row: Mapping[str, object]) -> dict[str, object]:
    names = [name for name in ("mask", *OF_PEOPLE) if name in row]
    return {
        "labelled": " ".join(TASKS[name].classes[row[name]] for name in names),
        "predicted": " ".join(TASKS[name].classes[row[f"{name}_told"]] for name in names),
        "suspicion": row["suspicion"],
    }


def without_checked(table: pd.DataFrame, checked: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """The suspects without what a person has looked at: what a file of corrections says, right or wrong, stays.

    Args:
        table: from `corrections_of`. checked: rows from `table.read_corrections`.
    """
    said = {(row["id"], what, row["file"] if what == "mask" else "") for row in checked for what in row if row[what]}
    table = table.copy()
    for i, row in table.iterrows():
        for what in ("gender", "age", "mask"):
            if (row["id"], what, row["file"].lower() if what == "mask" else "") in said:
                table.loc[i, what] = ""
    return table[(table[["gender", "age", "mask"]] != "").any(axis=1)].reset_index(drop=True)


# ------------------------------------------------------------------------------------------------ contact sheet


def draw_suspects(table: pd.DataFrame, photographs: Mapping[str, Sequence[Path]]) -> Image.Image:
    """A page with a line of photographs for each suspect and its labels above; a suspected photograph is framed.

    Args:
        table: from `corrections_of`. photographs: the files of each id.

    Returns:
        The page, RGB. A photograph that cannot be read is a grey box that says so.
    """
    blocks = []
    for row in table.to_dict("records"):
        cells = [_cell(path, suspected=path.stem == row["file"]) for path in photographs.get(row["id"], ())]
        lines = [cells[k : k + IN_LINE] for k in range(0, len(cells), IN_LINE)]
        told = f"labelled {row['labelled']}   looks like {row['predicted']}   suspicion {row['suspicion']:.3f}"
        blocks.append(Block(f"{suspect_name(row)}   {told}", lines))
    note = "To be looked at, not truths: the label may well be right. A suspected photograph is framed."
    return contact_sheet("Suspects", [note], blocks, cell=SIDE)


def _cell(path: Path, *, suspected: bool) -> Cell:
    picture = read_thumbnail(path, 2 * SIDE)
    if picture is None:
        return Cell(f"{path.stem} cannot be read", Image.new("RGB", (SIDE, SIDE), "lightgrey"), amiss=True)
    return Cell(path.stem, picture, (0, 0, *picture.size) if suspected else None, amiss=suspected)


def suspect_name(row: Mapping[str, str]) -> str:
    """What a suspect is called: the id, and the photograph where it is about one."""
    return f"{row['id']} {row['file']}".strip()


# ------------------------------------------------------------------------------------------------ the command


@dataclass(frozen=True)
class Suspects:
    """The suspects among the labels of a run.

    `rows` is a table as `corrections_of` makes it, of those that nobody has looked at yet; `files` are the photographs
    of each id. `checked` are the corrections that the run was trained with, `left_out` how many suspects these speak
    of, `note` what there is to say of them.
    """

    rows: pd.DataFrame
    files: dict[str, list[Path]]
    checked: list[dict[str, str]]
    left_out: int
    note: str | None

    def first(self, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The most suspicious people, and the most suspicious photographs."""
        of_photographs = self.rows["file"] != ""
        return self.rows[~of_photographs].head(count), self.rows[of_photographs].head(count)


def find_suspects(
    config: TrainConfig, oof: pd.DataFrame, answers: Mapping[str, Answers], root: Path, *, share: float
) -> Suspects:
    """The suspects of a run that learnt classes.

    Args:
        config: the options of the run. oof: its table of out-of-fold answers. answers: these, from `answers_of`.
        root: the folder of the photographs.
        share: people, and as many photographs, to suspect at most, as a share of the people.
    """
    ids, files = _folders(oof["ImageID"], oof["person"], root)
    of_ids = oof["ImageID"].map(ids).tolist()
    people = photographs = None
    if answers.keys() & set(OF_PEOPLE):
        people = candidates(suspect_people(answers, of_ids, oof["fold"]))
    if "mask" in answers:
        photographs = candidates(suspect_photographs(answers["mask"], oof["ImageID"], oof["fold"]))
    found = corrections_of(people, photographs, ids)
    checked, note = _earlier_corrections(config.corrections)
    unchecked = without_checked(found, checked)
    rows = unchecked.groupby(unchecked["file"] != "").head(math.ceil(share * oof["person"].nunique()))
    return Suspects(rows, files, checked, len(found) - len(unchecked), note)


def find_label_errors(run: RunFolder, *, share: float, show: int, overwrite: bool) -> None:
    """Print the most suspicious labels of a run, write its corrections.csv and draw its suspects.jpg.

    Args:
        run: the run, of which at least one fold is finished.
        share: suspects to list, at most, as a share of the people.
        show: people, and as many photographs, to print and draw.
        overwrite: replace a corrections.csv that is there with something else in it.

    Raises:
        UserError: the run learnt years, its files are damaged, or somebody has edited its corrections.csv; nothing is
            written then.
    """
    config = run.read_config()
    if TASKS[config.task].regression:
        raise UserError(
            f"{run.path} learnt years, which tell no label from another; pass --root with a run of another task."
        )
    oof = run.read_oof(config.task)
    root = Path(config.validated_root)
    suspects = find_suspects(
        config, oof, answers_of(config.task, *labels_and_predictions(oof, config.task)), root, share=share
    )
    table = pd.DataFrame([*suspects.rows.to_dict("records"), *suspects.checked], columns=suspects.rows.columns)
    _write_once(run.path / CORRECTIONS, table.to_csv(index=False, float_format="%.4f"), overwrite=overwrite)
    (run.path / CONTACT_SHEET).unlink(missing_ok=True)  # one of other suspects would mislead

    people, images = oof["person"].nunique(), oof["ImageID"].nunique()
    print(f"{people} people, {images} photographs, as {run.path} answered them out of fold.")
    finished = oof["fold"].nunique()
    if finished < config.cv:
        print(f"{finished} of {config.cv} folds are finished; who the others validate on is not judged yet.")
    if suspects.note:
        print(suspects.note)
    if suspects.left_out:
        print(f"Left out, since {config.corrections} says that somebody has looked at them: {suspects.left_out}.")
    if not len(suspects.rows):
        print("No label is suspicious.")
        return
    shown = suspects.first(show)
    for what, rows in zip(("person", "photograph"), shown, strict=True):
        if len(rows):
            print(f"\n{what:<24}{'labelled':<22}{'looks like':<22}suspicion")
        for row in rows.to_dict("records"):
            print(f"{suspect_name(row):<24}{row['labelled']:<22}{row['predicted']:<22}{row['suspicion']:.3f}")
    print("\nsuspicion: how probable it is, by these answers, that a label is wrong, 0 to 1.")
    print(
        f"These are suspects to be looked at, not truths. All {len(suspects.rows)} are in {run.path / CORRECTIONS}\n"
        "Delete the rows whose label is right; then train anew with --corrections and another --save-path."
    )
    if not root.is_dir():
        print(f"The photographs are not in {root} any more, so there is no contact sheet.")
        return
    sheet = draw_suspects(pd.concat(shown), suspects.files)
    atomic_write(run.path / CONTACT_SHEET, lambda file: sheet.save(file, "JPEG", quality=90))
    print(f"Their photographs: {run.path / CONTACT_SHEET}")


def _folders(images: Iterable[str], people: Iterable[str], root: Path) -> tuple[dict[str, str], dict[str, list[Path]]]:
    """The id of each photograph's folder, and the files of each id.

    Where the folder is not there any more, its name tells the id, or else the person does.
    """
    known: dict[str, str] = {}
    if root.is_dir():
        table, _ = read_training_table(root)  # train.csv may tell another id than the folder's name
        known = dict(zip(table["image"], table["id"], strict=True))
    ids = {
        image: known.get(image) or (parse_person(image.rpartition("/")[0]) or {"id": person})["id"]
        for image, person in zip(images, people, strict=True)
    }
    files: dict[str, list[Path]] = defaultdict(list)
    for image in sorted(ids):
        files[ids[image]].append(root / image)
    return ids, files


def _earlier_corrections(path: str | None) -> tuple[list[dict[str, str]], str | None]:
    """The rows of the corrections that the run was trained with, and a sentence where they are gone."""
    if path is None:
        return [], None
    if not Path(path).is_file():
        return [], f"The corrections that the run was trained with, {path}, are not there any more: add them yourself."
    return [row for _, row in read_corrections(Path(path))], None


def _write_once(path: Path, text: str, *, overwrite: bool) -> None:
    """Write a file unless there is one that somebody has edited."""
    if path.is_file() and not overwrite and path.read_bytes() != text.encode(errors="surrogateescape"):
        raise UserError(
            f"{path} is there with other rows, perhaps since somebody has checked them. Move it elsewhere, or pass "
            "--overwrite to replace it."
        )
    write_text(path, text)
