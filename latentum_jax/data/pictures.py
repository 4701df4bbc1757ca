"""Pictures in a folder."""

import os
from pathlib import Path

PICTURES = (".jpg", ".jpeg", ".png", ".webp")


class Pictures:
    """The picture files of a folder and of the folders in it, in order of their names.

    Raises ValueError where there are none.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in PICTURES)
        if not self.files:
            raise ValueError(f"{folder} has no pictures ({', '.join(PICTURES)})")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Path:
        return self.files[index]
