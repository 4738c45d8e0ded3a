"""Test that names in any script are drawn."""

from pathlib import Path

import pytest

from analysis import fonts, plots
from analysis.contact_sheet import contact_sheet
from analysis.intervals import Estimate


def test_accents_are_drawn():
    pages = {contact_sheet(title, [], []).tobytes() for title in "éüß"}
    assert len(pages) == 3  # not three boxes


@pytest.mark.parametrize(("text", "file"), [("e", "cmr10.ttf"), ("é", "DejaVuSans.ttf"), ("\U000f0000", "cmr10.ttf")])
def test_the_first_font_with_all_characters_draws_a_text(text, file, monkeypatch):
    monkeypatch.setattr(fonts, "installed", lambda: ["cmr10", "DejaVu Sans"])
    assert Path(fonts.font_file.__wrapped__(text)).name == file


def test_a_character_of_no_font_causes_no_warning():
    assert plots.png(plots.intervals({"": {"\U000f0000": Estimate(0.5, 0.4, 0.6)}}, "F1"))
