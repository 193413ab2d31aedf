"""The photos and masks of a folder, turned by a quarter: `python experiments/borders/turned.py FOLDER OUT`.

What a map owes to the photos turns with them; what it owes to the network stays where it was.
"""

import sys
from pathlib import Path

from PIL import Image

folder, out = (Path(word) for word in sys.argv[1:])
for path in sorted(folder.rglob("*")):
    if path.suffix.lower() in {".png", ".jpg"}:
        copy = (out / path.relative_to(folder)).with_suffix(".png")
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(copy)
