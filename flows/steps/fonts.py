"""A font with Korean glyphs for charts, found without root and without changing matplotlib for everyone.

Reads font files; writes nothing. A system font comes first (Nanum, Noto CJK), else the NanumGothic that lies in
the installed package koreanize_matplotlib. That package is located, never imported: importing it rewrites
matplotlib's global settings. Invariant: a font is returned only when it really has Hangul.
"""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from fontTools import subset
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from lake.errors import SetupError

SYSTEM_FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path("~/.fonts"))
SYSTEM_PATTERNS = ("NanumGothic.ttf", "NanumBarunGothic.ttf", "NotoSansCJK*-Regular.*", "NotoSansKR*.*tf")
PACKAGE = "koreanize_matplotlib"
PROBE = "한글 각힣 0%"  # the first and the last syllables that fonts cut down to a subset tend to lack


def missing_glyphs(font: Path, text: str) -> set[str]:
    """Characters of `text` that the font cannot draw; raises `RuntimeError` or `OSError` for a broken file."""
    face = FT2Font(str(font))
    return {char for char in text if not char.isspace() and not face.get_char_index(ord(char))}


def packaged_font(package: str = PACKAGE) -> Path | None:
    """NanumGothic.ttf inside the installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        font = Path(folder) / "fonts" / "NanumGothic.ttf"
        if font.is_file():
            return font
    return None


def _system_fonts(folders: Iterable[Path]) -> Iterable[Path]:
    for pattern in SYSTEM_PATTERNS:
        for folder in folders:
            yield from sorted(folder.expanduser().rglob(pattern))


def find_korean_font(folders: Sequence[Path] = SYSTEM_FOLDERS, package: str = PACKAGE) -> Path:
    """The first font that has Hangul. Raises `SetupError` where there is none."""
    packaged = packaged_font(package)
    for font in (*_system_fonts(folders), *([packaged] if packaged else [])):
        try:
            if not missing_glyphs(font, PROBE):
                return font
        except (RuntimeError, OSError):
            continue
    raise SetupError(
        "No font with Korean glyphs was found, so charts cannot be drawn: run `make setup` again (it installs "
        f"{package}, which ships NanumGothic), or install fonts-nanum."
    )


def register_korean_font(font: Path | None = None) -> str:
    """Make the font known to matplotlib's font manager and return its family name. Safe to repeat."""
    path = str(font or find_korean_font())
    manager = font_manager.fontManager
    if all(entry.fname != path for entry in manager.ttflist):
        manager.addfont(path)
    return font_manager.FontProperties(fname=path).get_name()


def embedded_font(text: str, font: Path | None = None) -> str:
    """The glyphs of `text` as a WOFF data URI, so that a page can be read where no Korean font is installed.

    Nanum and Noto are under the SIL Open Font License, which allows embedding in documents. About 0.3 KB a
    syllable. Raises `SetupError` where no font is found.
    """
    path = font or find_korean_font()
    options = subset.Options(flavor="woff", hinting=False, notdef_outline=True, layout_features=[], font_number=0)
    options.drop_tables += ["GSUB", "GPOS", "GDEF", "TSI0", "TSI1", "TSI2", "TSI3", "TSI5"]  # shaping, hint sources
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes={ord(char) for char in text if "\u1100" <= char <= "\u11ff" or char >= "\u3000"})
    target = io.BytesIO()
    with subset.load_font(str(path), options) as face:
        subsetter.subset(face)
        subset.save_font(face, target, options)
    return "data:font/woff;base64," + base64.b64encode(target.getvalue()).decode("ascii")
