"""Find labels that are likely wrong by confident learning on out-of-fold predictions.

Labels that all images of a group share are suspected per group, the others per image. The results are suspects for a
person to check: the model may be wrong as well.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from analysis.contact_sheet import Block, Cell, contact_sheet
from analysis.error_analysis import Predictions, split_predictions
from analysis.metrics import fit_temperature, tempered
from config import TrainConfig
from data.face_corrections import folder_ids, read_earlier_corrections, suggest_corrections
from data.face_layout import CORRECTION_COLUMNS
from data.images import read_thumbnail
from storage.run_folder import RunFolder, labels_and_predictions
from utils import UserError, atomic_write, write_text

SIDE, IN_LINE = 152, 7  # pixels of an image on the contact sheet, and images per line
DRAWN = 160  # suspects on it at most, since a JPEG has no more than 65535 rows
CORRECTIONS, SUSPECTS, CONTACT_SHEET = "corrections.csv", "suspects.csv", "suspects.jpg"  # in the folder of the run
OWN_COLUMNS = ("group", "image")  # of SUSPECTS, for own data; CORRECTIONS are for faces
MORE_COLUMNS = ("labelled", "predicted", "suspicion")  # added to those of both, for the person who checks
WRONG = 0.03  # expected share of wrong labels; ten test sets had 3.3 % (arXiv 2103.14749)
_FLOOR = 1e-6  # smallest probability: one image alone must not rule out a class


def pool_images(probabilities: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the normalised mean of the log probabilities of each group of images.

    The mean and not the sum, since images of one group are not independent; `calibrate` sets how much they count.
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


def rate_labels(predictions: Sequence[Predictions], names: Sequence[str], folds: Sequence[int]) -> pd.DataFrame:
    """Return the suspicion against the labels of each group or image, the most suspicious first.

    Args:
        predictions: the predictions for each attribute to rate.
        names: `(N,)` the group of each image, or the image itself; images of one name are rated together.
        folds: `(N,)` fold of the network that predicted the image.

    Returns:
        A row for each name: name; the label and the confident class of each attribute (numbers, as `label sex` and
        `found sex`, equal if nothing is suspected); and suspicion, the probability from 0 to 1 that a label is wrong.
        If the images of one name have several labels, the first counts.
    """
    unique, first, groups = np.unique(np.asarray(names, dtype=object), return_index=True, return_inverse=True)
    fold = np.asarray(folds)[first]
    table = pd.DataFrame({"name": unique})
    all_right = np.ones(len(unique))
    for each in predictions:
        labels, probabilities = each.labels[first], pool_images(each.probabilities, groups)
        for number in np.unique(fold):
            rows = fold == number
            probabilities[rows] = calibrate(probabilities[rows], labels[rows])
        table[f"label {each.task.name}"] = labels
        table[f"found {each.task.name}"] = confident_classes(probabilities, labels)
        all_right *= label_confidence(probabilities, labels)
    table["suspicion"] = 1 - all_right
    return table.sort_values(["suspicion", "name"], ascending=[False, True], ignore_index=True)


def select_candidates(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `rate_labels` whose confident class differs from their label."""
    kinds = ([name for name in table if name.startswith(kind)] for kind in ("label ", "found "))
    labels, found = (table[names].to_numpy() for names in kinds)
    return table[(labels != found).any(axis=1)].reset_index(drop=True)


@dataclass(frozen=True)
class Suspects:
    """The suspects among the labels of a run: dicts with name (for texts), group, image (or empty) and `columns`."""

    groups: list[dict[str, Any]]  # the most suspicious first, without those that a person has checked
    images: list[dict[str, Any]]
    columns: tuple[str, ...]  # of the file of suspects
    files: dict[str, list[str]]  # the images of each group
    checked: list[dict[str, str]]  # the corrections that the run was trained with
    notes: list[str]  # sentences about them

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return all suspects."""
        return [*self.groups, *self.images]

    def first(self, count: int) -> list[dict[str, Any]]:
        """Return the most suspicious groups, then the most suspicious images."""
        return [*self.groups[:count], *self.images[:count]]

    def shown(self, suspect: Mapping[str, Any]) -> list[str]:
        """Return at most two lines of images of a suspected group, or a line with a suspected image."""
        names, image = self.files[suspect["group"]], suspect["image"]
        others = [name for name in names if name != image][: IN_LINE - 1]
        return sorted([image, *others]) if image else names[: 2 * IN_LINE]


def find_suspects(config: TrainConfig, oof: pd.DataFrame, root: Path, *, share: float) -> Suspects:
    """Return the suspects of a classification run from its out-of-fold predictions and the folder of its images.

    At most a `share` of the groups are suspected, and of the images; for faces, as many images as there are people.
    """
    task, images = config.record, oof["ImageID"]
    predictions = split_predictions(task, *labels_and_predictions(oof, task))
    groups = dict(zip(images, oof["person"], strict=True))
    columns, checked, notes = OWN_COLUMNS, [], []
    if not config.data:
        groups, columns = folder_ids(groups, root), CORRECTION_COLUMNS
        checked, notes = read_earlier_corrections(config.corrections)
    grouped = any(image != group for image, group in groups.items())
    parts, left_out = [], 0
    for of_group, names in ((True, images.map(groups)), (False, images)):
        tasks = [part for part in task.parts or (task,) if (part.of_group and grouped) == of_group]
        found = _list_candidates([predictions[part.name] for part in tasks], names, oof["fold"])
        for row in found:
            name = row["name"]
            group, image = (name, "") if of_group else (groups[name], name)
            row |= {"group": group, "image": image, "name": " ".join(dict.fromkeys((group, image))).strip()}
        kept = found if config.data else suggest_corrections(found, checked)
        counted = names if config.data else oof["person"]
        parts.append(kept[: math.ceil(share * counted.nunique())])
        left_out += len(found) - len(kept)
    if left_out:
        notes.append(f"Left out {left_out} suspects that {config.corrections} mentions.")
    files: dict[str, list[str]] = defaultdict(list)
    for image in sorted(groups):
        files[groups[image]].append(image)
    return Suspects(*parts, (*columns, *MORE_COLUMNS), files, checked, notes)


def _list_candidates(
    predictions: Sequence[Predictions], names: Sequence[str], folds: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the candidates of `rate_labels` with `labelled` and `predicted`, the names of their classes."""
    rows = select_candidates(rate_labels(predictions, names, folds)).to_dict("records") if predictions else []
    for row in rows:
        for column, kind in (("labelled", "label"), ("predicted", "found")):
            row[column] = " ".join(each.classes[row[f"{kind} {each.task.name}"]] for each in predictions)
    return rows


def draw_suspects(suspects: Suspects, root: Path, count: int) -> Image.Image:
    """Return a contact sheet with images of the first suspects; suspected images are framed, unreadable ones grey."""
    rows, blocks = suspects.first(count), []
    for row in rows[:DRAWN]:
        cells = [_draw_cell(root / name, suspected=name == row["image"]) for name in suspects.shown(row)]
        lines = [cells[k : k + IN_LINE] for k in range(0, len(cells), IN_LINE)]
        text = f"labelled {row['labelled']}, predicted {row['predicted']}, suspicion {row['suspicion']:.3f}"
        blocks.append(Block(f"{row['name']}: {text}", lines))
    note = "Check them: the label may well be right. Suspected images are framed."
    note += f" These are the first {DRAWN} of {len(rows)}." if len(rows) > DRAWN else ""
    return contact_sheet("Suspects", [note], blocks, cell=SIDE)


def _draw_cell(path: Path, *, suspected: bool) -> Cell:
    picture = read_thumbnail(path, 2 * SIDE)
    if picture is None:
        return Cell(f"{path.stem} cannot be read", Image.new("RGB", (SIDE, SIDE), "lightgrey"), highlight=True)
    return Cell(path.stem, picture, (0, 0, *picture.size) if suspected else None, highlight=suspected)


def find_label_errors(run: RunFolder, *, share: float, show: int, overwrite: bool) -> None:
    """Print the most suspicious labels of a run, write its corrections.csv or suspects.csv, and draw its suspects.jpg.

    `share` limits the number of suspects, see `find_suspects`; `show` groups and images are printed and drawn.

    Raises:
        UserError: the run predicts numbers, its files are damaged, or its file of suspects was edited and is not to be
            overwritten; nothing is written.
    """
    config = run.read_config()
    if config.record.regression:
        raise UserError(f"{run.path} predicts numbers, not classes. Pass --root with a run of another task.")
    oof, root = run.read_oof(config.record), Path(config.validated_root)
    suspects = find_suspects(config, oof, root, share=share)
    path, sheet = run.path / (SUSPECTS if config.data else CORRECTIONS), run.path / CONTACT_SHEET
    _write_suspects(path, suspects, overwrite=overwrite)
    sheet.unlink(missing_ok=True)  # an earlier one shows other suspects
    groups, images, finished = (oof[name].nunique() for name in ("person", "ImageID", "fold"))
    noun = config.record.noun
    print(f"{groups} {noun}, {images} images, out-of-fold predictions of {run.path}.")
    if finished < config.cv:
        print(f"{finished} of {config.cv} folds are finished; the {noun} of the other folds are not checked yet.")
    for note in suspects.notes:
        print(note)
    if not suspects.rows:
        print("No label is suspicious.")
        return
    _print_suspects(suspects, show, config.record.one)
    print(
        "\nsuspicion: probability from 0 to 1 that a label is wrong, by these predictions.\n\n"
        f"The model may be wrong instead of the label: check all {len(suspects.rows)} suspects in {path}"
    )
    if config.data:
        print(f"Correct the labels that are wrong in {config.data}, then train again with another --save-path.")
    else:
        print("Delete the rows whose label is right, then train again with --corrections and another --save-path.")
    if root.is_dir():
        page = draw_suspects(suspects, root, show)
        atomic_write(sheet, lambda file: page.save(file, "JPEG", quality=90))
        print(f"Contact sheet: {sheet}")
    else:
        print(f"There is no contact sheet: the images are not in {root} any more.")


def _print_suspects(suspects: Suspects, show: int, one: str) -> None:
    least = {"name": 24, "labelled": 22, "predicted": 22}
    widths = {key: max(least[key], *(len(row[key]) + 2 for row in suspects.first(show))) for key in least}
    line = "".join(f"{{{key}:<{width}}}" for key, width in widths.items()) + "{suspicion}"
    for what, rows in ((one, suspects.groups[:show]), ("image", suspects.images[:show])):
        if rows:
            print("\n" + line.format(name=what, labelled="labelled", predicted="predicted", suspicion="suspicion"))
        for row in rows:
            print(line.format_map(row | {"suspicion": f"{row['suspicion']:.3f}"}))


def _write_suspects(path: Path, suspects: Suspects, *, overwrite: bool) -> None:
    """Write the suspects and the earlier corrections, but do not replace a file with other rows."""
    table = pd.DataFrame([*suspects.rows, *suspects.checked], columns=suspects.columns)
    text = table.to_csv(index=False, float_format="%.4f")
    if path.is_file() and not overwrite and path.read_bytes() != text.encode(errors="surrogateescape"):
        raise UserError(
            f"{path} exists with other rows, perhaps checked by a person. Move it elsewhere, or pass --overwrite to "
            "replace it."
        )
    write_text(path, text)
