"""Files that older versions wrote."""

from __future__ import annotations

import zipfile
from pathlib import Path


def unpack(folder: Path) -> None:
    with zipfile.ZipFile(Path(__file__).with_name("old_formats.zip")) as archive:
        archive.extractall(folder)
