"""Find installed fonts for names of classes and images in any script."""

from functools import cache

from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.ft2font import FT2Font

# The first one comes with matplotlib. The others, of Linux, Windows and macOS, have the scripts that it lacks.
FAMILIES = (
    *("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans CJK SC", "NanumGothic", "WenQuanYi Micro Hei"),
    *("Malgun Gothic", "Microsoft YaHei", "Yu Gothic", "Nirmala UI", "Leelawadee UI"),
    *("Apple SD Gothic Neo", "PingFang SC", "Hiragino Sans", "Arial Unicode MS"),
)


@cache
def installed() -> list[str]:
    """Return those of FAMILIES that are installed."""
    return [name for name in FAMILIES if name in {font.name for font in fontManager.ttflist}]


@cache
def font_file(text: str) -> str:
    """Return the file of the first font that has all characters of `text`, or of the first one if none has."""
    files = [fontManager.findfont(FontProperties(family=name)) for name in installed()]
    return next((file for file in files if _characters(file).issuperset(map(ord, text))), files[0])


@cache
def _characters(file: str) -> frozenset[int]:
    return frozenset(FT2Font(file).get_charmap())
