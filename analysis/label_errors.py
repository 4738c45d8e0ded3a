"""Find labels that are likely wrong by confident learning on out-of-fold predictions.

Gender and age group are suspected per person, the mask per image. The results are suspects for a person to check: the
model may be wrong as well.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from analysis.contact_sheet import Block, Cell, contact_sheet
from analysis.error_analysis import Predictions, split_predictions
from analysis.metrics import fit_temperature, tempered
from config import TrainConfig
from data.face_layout import CORRECTION_COLUMNS, parse_person, read_corrections, read_training_table
from data.faces import AGE_BOUNDS, AGE_GROUP, FACES, GENDER, GENDERS, MASKS
from data.images import read_thumbnail
from storage.run_folder import RunFolder, labels_and_predictions
from utils import UserError, atomic_write, write_text

SIDE, IN_LINE = 152, 7  # pixels of an image on the contact sheet, and images per line: one person's shots
CORRECTIONS, CONTACT_SHEET = "corrections.csv", "suspects.jpg"  # in the folder of the run
OF_PEOPLE = (GENDER.name, AGE_GROUP.name)  # shared by all images of a person, unlike the mask
MORE_COLUMNS = ("labelled", "predicted", "suspicion")  # added to those of corrections, for the person who checks
WRONG = 0.03  # expected share of wrong labels; ten test sets had 3.3 % (arXiv 2103.14749)
_FLOOR = 1e-6  # smallest probability: one image alone must not rule out a class


def pool_images(probabilities: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the normalised mean of the log probabilities of each group of images.

    The mean and not the sum, since images of one person are not independent; `calibrate` sets how much they count.
    `groups` `(N,)` numbers the rows of `probabilities` `(N, C)` from 0 to G - 1; the result is `(G, C)`.
    """
    sums = np.zeros((groups.max() + 1, probabilities.shape[1]))
    np.add.at(sums, groups, np.log(np.maximum(probabilities, _FLOOR)))
    return tempered(np.exp(sums / np.bincount(groups)[:, None]), 1)


def calibrate(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return probabilities `(G, C)` scaled by the temperature with the lowest log loss on the labels `(G,)`.

    Makes attributes and the networks of different folds comparable (Guo et al. 2017, arXiv 1706.04599).
    """
    return tempered(probabilities, fit_temperature(probabilities, labels, floor=_FLOOR), floor=_FLOOR)


def confident_classes(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the class that each row confidently belongs to, `(G,) int64`, or its label if there is none.

    A class is confident if its probability is at least the mean over the rows with this label; of several, the most
    probable counts (Northcutt, Jiang and Chuang 2021, doi 10.1613/jair.1.12125). Rows whose class differs from their
    label are off the diagonal of the paper's confident joint: the candidates for a wrong label. `probabilities`
    `(G, C)` must come from networks that were not trained on the row.
    """
    count = probabilities.shape[1]
    mean = [probabilities[labels == k, k].mean() if (labels == k).any() else math.inf for k in range(count)]
    least = np.array(mean) - 1e-9  # rounding can lift the mean above equal values
    confident = np.where(probabilities >= least, probabilities, -1.0)
    return np.where(confident.max(axis=1) >= 0, confident.argmax(axis=1), labels)


def label_confidence(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the probability that each label is right, `(G,)`, if a share WRONG of all labels is wrong at random.

    Bayes' rule on calibrated `probabilities` `(G, C)`.
    """
    right = probabilities[np.arange(len(labels)), labels]
    wrong = (1 - right) / (probabilities.shape[1] - 1)  # mean of the other classes
    return (1 - WRONG) * right / ((1 - WRONG) * right + WRONG * wrong)


def rate_labels(
    predictions: Mapping[str, Predictions], names: Sequence[str], folds: Sequence[int], column: str
) -> pd.DataFrame:
    """Return the suspicion against the labels of each person or image, the most suspicious first.

    Args:
        predictions: the predictions for each attribute to rate.
        names: `(N,)` the id of each image's folder, or the image itself; images of one name are rated together.
        folds: `(N,)` fold of the network that predicted the image.
        column: the column for the names.

    Returns:
        A row for each name: the name; the label and the confident class of each attribute (numbers, `gender` and
        `gender_found`, equal if nothing is suspected); and suspicion, the probability from 0 to 1 that a label is
        wrong. If the images of one name have several labels, the first counts.
    """
    unique, first, groups = np.unique(np.asarray(names, dtype=object), return_index=True, return_inverse=True)
    fold = np.asarray(folds)[first]
    table = pd.DataFrame({column: unique})
    all_right = np.ones(len(unique))
    for name, each in predictions.items():
        labels, probabilities = each.labels[first], pool_images(each.probabilities, groups)
        for number in np.unique(fold):
            rows = fold == number
            probabilities[rows] = calibrate(probabilities[rows], labels[rows])
        table[name], table[f"{name}_found"] = labels, confident_classes(probabilities, labels)
        all_right *= label_confidence(probabilities, labels)
    table["suspicion"] = 1 - all_right
    return table.sort_values(["suspicion", column], ascending=[False, True], ignore_index=True)


def select_candidates(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `rate_labels` whose confident class differs from their label."""
    found = [name for name in table if name.endswith("_found")]
    differs = np.any([table[name] != table[name.removesuffix("_found")] for name in found], axis=0)
    return table[differs].reset_index(drop=True)


def make_corrections(people: pd.DataFrame, images: pd.DataFrame, ids: Mapping[str, str]) -> pd.DataFrame:
    """Return the candidates among people, then those among images, as rows of a corrections file.

    Both tables may be empty. `ids` maps an image to the id of its folder.

    Returns:
        id, gender, age, file and mask as `--corrections` reads them, strings that are empty where nothing is suspected,
        and MORE_COLUMNS. An age is the one of the suggested group that is nearest to the labelled group.
    """
    rows = []
    for row in [*people.to_dict("records"), *images.to_dict("records")]:
        names = [name for name in ("mask", *OF_PEOPLE) if name in row]
        found = {name: row[f"{name}_found"] for name in names}
        fields = dict.fromkeys(CORRECTION_COLUMNS, "")
        if "mask" in names:
            fields |= {"id": ids[row["ImageID"]], "file": Path(row["ImageID"]).stem, "mask": MASKS[found["mask"]]}
        else:
            fields["id"] = row["id"]
        if "gender" in names and found["gender"] != row["gender"]:
            fields["gender"] = GENDERS[found["gender"]]
        if "ageg" in names and found["ageg"] != row["ageg"]:
            group, older = found["ageg"], found["ageg"] > row["ageg"]
            fields["age"] = str(AGE_BOUNDS[group - 1] if older else AGE_BOUNDS[group] - 1)
        labelled, predicted = (" ".join(FACES[name].classes[each[name]] for name in names) for each in (row, found))
        rows.append({**fields, "labelled": labelled, "predicted": predicted, "suspicion": row["suspicion"]})
    return pd.DataFrame(rows, columns=[*CORRECTION_COLUMNS, *MORE_COLUMNS])


def remove_checked(table: pd.DataFrame, checked: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Remove the labels that the rows of `tables.read_corrections` mention, since a person has checked them."""
    known = {(row["id"], what, row["file"] if what == "mask" else "") for row in checked for what in row if row[what]}
    table, labels = table.copy(), ["gender", "age", "mask"]
    for i, row in table.iterrows():
        for what in labels:
            if (row["id"], what, row["file"].lower() if what == "mask" else "") in known:
                table.loc[i, what] = ""
    return table[(table[labels] != "").any(axis=1)].reset_index(drop=True)


def draw_suspects(table: pd.DataFrame, files: Mapping[str, Sequence[Path]]) -> Image.Image:
    """Return a contact sheet with the images of each suspect; suspected images are framed, unreadable ones grey."""
    blocks = []
    for row in table.to_dict("records"):
        cells = [_draw_cell(path, suspected=path.stem == row["file"]) for path in files.get(row["id"], ())]
        lines = [cells[k : k + IN_LINE] for k in range(0, len(cells), IN_LINE)]
        text = f"labelled {row['labelled']}, predicted {row['predicted']}, suspicion {row['suspicion']:.3f}"
        blocks.append(Block(f"{suspect_name(row)}: {text}", lines))
    note = "Check them: the label may well be right. Suspected images are framed."
    return contact_sheet("Suspects", [note], blocks, cell=SIDE)


def _draw_cell(path: Path, *, suspected: bool) -> Cell:
    picture = read_thumbnail(path, 2 * SIDE)
    if picture is None:
        return Cell(f"{path.stem} cannot be read", Image.new("RGB", (SIDE, SIDE), "lightgrey"), highlight=True)
    return Cell(path.stem, picture, (0, 0, *picture.size) if suspected else None, highlight=suspected)


def suspect_name(row: Mapping[str, str]) -> str:
    """Return the name of a suspect: the id, and the file if one image is suspected."""
    return f"{row['id']} {row['file']}".strip()


@dataclass(frozen=True)
class Suspects:
    """The suspects among the labels of a run."""

    rows: pd.DataFrame  # those that nobody has checked yet, from `make_corrections`
    files: dict[str, list[Path]]  # the images of each id
    checked: list[dict[str, str]]  # the corrections that the run was trained with
    left_out: int  # the number of suspects that these mention
    note: str | None  # a sentence about the corrections

    def first(self, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the most suspicious people and the most suspicious images."""
        of_images = self.rows["file"] != ""
        return self.rows[~of_images].head(count), self.rows[of_images].head(count)


def find_suspects(config: TrainConfig, oof: pd.DataFrame, root: Path, *, share: float) -> Suspects:
    """Return the suspects of a classification run from its out-of-fold predictions and the folder of its images.

    At most a `share` of the number of people are suspected, and as many images.
    """
    predictions = split_predictions(config.record, *labels_and_predictions(oof, config.record))
    ids, files = _list_images(oof, root)
    people = images = pd.DataFrame()
    if of_people := {name: predictions[name] for name in OF_PEOPLE if name in predictions}:
        people = select_candidates(rate_labels(of_people, oof["ImageID"].map(ids).tolist(), oof["fold"], "id"))
    if "mask" in predictions:
        images = select_candidates(rate_labels({"mask": predictions["mask"]}, oof["ImageID"], oof["fold"], "ImageID"))
    found = make_corrections(people, images, ids)
    checked, note = _read_earlier_corrections(config.corrections)
    unchecked = remove_checked(found, checked)
    rows = unchecked.groupby(unchecked["file"] != "").head(math.ceil(share * oof["person"].nunique()))
    return Suspects(rows, files, checked, len(found) - len(unchecked), note)


def find_label_errors(run: RunFolder, *, share: float, show: int, overwrite: bool) -> None:
    """Print the most suspicious labels of a run, write its corrections.csv and draw its suspects.jpg.

    `share` limits the number of suspects to a share of the people; `show` people and images are printed and drawn.

    Raises:
        UserError: the run predicts years, its files are damaged, or its corrections.csv was edited and is not to be
            overwritten; nothing is written.
    """
    config = run.read_config()
    if config.data:
        raise UserError(f"{run.path} was trained on --data. find_label_errors reads the folders of --train-root only.")
    if config.record.regression:
        raise UserError(f"{run.path} predicts numbers, not classes. Pass --root with a run of another task.")
    oof, root = run.read_oof(config.record), Path(config.validated_root)
    suspects = find_suspects(config, oof, root, share=share)
    corrections, sheet = run.path / CORRECTIONS, run.path / CONTACT_SHEET
    _write_corrections(corrections, suspects, overwrite=overwrite)
    sheet.unlink(missing_ok=True)  # an earlier one shows other suspects
    _print_run(run, config, oof, suspects)
    if not len(suspects.rows):
        print("No label is suspicious.")
        return
    _print_suspects(suspects, show, corrections)
    if root.is_dir():
        page = draw_suspects(pd.concat(suspects.first(show)), suspects.files)
        atomic_write(sheet, lambda file: page.save(file, "JPEG", quality=90))
        print(f"Contact sheet: {sheet}")
    else:
        print(f"There is no contact sheet: the images are not in {root} any more.")


def _print_run(run: RunFolder, config: TrainConfig, oof: pd.DataFrame, suspects: Suspects) -> None:
    people, images, finished = (oof[name].nunique() for name in ("person", "ImageID", "fold"))
    print(f"{people} people, {images} images, out-of-fold predictions of {run.path}.")
    if finished < config.cv:
        print(f"{finished} of {config.cv} folds are finished; the people of the other folds are not checked yet.")
    if suspects.note:
        print(suspects.note)
    if suspects.left_out:
        print(f"Left out {suspects.left_out} suspects that {config.corrections} mentions.")


def _print_suspects(suspects: Suspects, show: int, corrections: Path) -> None:
    for what, rows in zip(("person", "image"), suspects.first(show), strict=True):
        if len(rows):
            print(f"\n{what:<24}{'labelled':<22}{'predicted':<22}suspicion")
        for row in rows.to_dict("records"):
            print(f"{suspect_name(row):<24}{row['labelled']:<22}{row['predicted']:<22}{row['suspicion']:.3f}")
    print(
        "\nsuspicion: probability from 0 to 1 that a label is wrong, by these predictions.\n\n"
        f"The model may be wrong instead of the label: check all {len(suspects.rows)} suspects in {corrections}\n"
        "Delete the rows whose label is right, then train again with --corrections and another --save-path."
    )


def _list_images(oof: pd.DataFrame, root: Path) -> tuple[dict[str, str], dict[str, list[Path]]]:
    """Return the id of each image's folder, and the images of each id.

    If the folder is gone, the id comes from its name, or else from the person.
    """
    known: dict[str, str] = {}
    if root.is_dir():
        table, _ = read_training_table(root)  # train.csv may have another id than the folder's name
        known = dict(zip(table["image"], table["id"], strict=True))
    ids = {
        image: known.get(image) or (parse_person(image.rpartition("/")[0]) or {"id": person})["id"]
        for image, person in zip(oof["ImageID"], oof["person"], strict=True)
    }
    files: dict[str, list[Path]] = defaultdict(list)
    for image in sorted(ids):
        files[ids[image]].append(root / image)
    return ids, files


def _read_earlier_corrections(path: str | None) -> tuple[list[dict[str, str]], str | None]:
    """Return the corrections that the run was trained with, and a sentence if the file is gone."""
    if path is None:
        return [], None
    if not Path(path).is_file():
        return [], f"The corrections of the training, {path}, are gone. Add them to the new file yourself."
    return [row for _, row in read_corrections(Path(path))], None


def _write_corrections(path: Path, suspects: Suspects, *, overwrite: bool) -> None:
    """Write the suspects and the earlier corrections, but do not replace a file with other rows."""
    table = pd.DataFrame([*suspects.rows.to_dict("records"), *suspects.checked], columns=suspects.rows.columns)
    text = table.to_csv(index=False, float_format="%.4f")
    if path.is_file() and not overwrite and path.read_bytes() != text.encode(errors="surrogateescape"):
        raise UserError(
            f"{path} exists with other rows, perhaps checked by a person. Move it elsewhere, or pass --overwrite to "
            "replace it."
        )
    write_text(path, text)
