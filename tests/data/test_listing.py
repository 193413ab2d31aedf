"""What is read below a folder, and what is left out with its reason."""

import numpy as np
import pytest
from PIL import Image

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.formats import read_photo
from anomaly_lab.data.listing import (
    BY_CONTENT,
    NO_PHOTO,
    NOT_READ,
    TWO_FILES,
    images_in,
    mask_folders,
    subfolders,
    walk,
)  # fmt: skip
from anomaly_lab.data.names import SUFFIXES


def test_what_may_be_a_photo_is_read_or_left_out_with_a_reason(tmp_path):
    for name in ("a.PGM", "b.jp2", "c.heic", "d.txt", ".e.png", "__MACOSX/f.png", "Ground Truth/g.png", "h.gif/i.jpe"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "dead.tif").symlink_to("nowhere")
    left_out = []
    found = images_in(tmp_path, lambda reason, path: left_out.append((path.name, reason.split()[-1])))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.PGM", "b.jp2", "h.gif/i.jpe"]
    assert sorted(left_out) == [
        ("Ground Truth", "masks"), ("c.heic", "PNG)"), ("d.txt", "photo"), ("dead.tif", "fetched?)"),
    ]  # fmt: skip
    every = [path.name for path in walk(tmp_path, unreadable=True)]
    assert every == ["a.PGM", "b.jp2", "c.heic", "dead.tif", "i.jpe"]
    assert [path.name for path in subfolders(tmp_path)] == ["h.gif"]
    assert [path.name for path in mask_folders(tmp_path)] == ["Ground Truth"]


@pytest.mark.parametrize("unreadable", [False, True])  # for a training, for predict
def test_a_photo_is_one_by_its_content_whatever_its_suffix(tmp_path, unreadable):
    gray = Image.fromarray(np.full((12, 16), 90, np.uint8))
    for number, kind in enumerate(("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")):
        gray.save(tmp_path / f"{number}.HEIC", kind)
    gray.save(tmp_path / "7", "JPEG")
    gray.save(tmp_path / "b.jpg")
    gray.save(tmp_path / "b.jpg_original", "JPEG")  # exiftool keeps the earlier version so
    gray.save(tmp_path / "raw.nef", "TIFF")  # its first page would be a preview
    (tmp_path / "notes.md").write_text("BMP files are P5 by content")
    left_out = {}
    found = walk(tmp_path, None, lambda reason, path: left_out.setdefault(reason, []).append(path.name), unreadable)
    heic = [f"{number}.HEIC" for number in range(7)]
    raw = ["raw.nef"] if unreadable else []  # predict names it in unreadable.csv
    assert [path.name for path in found] == sorted([*heic, "7", "b.jpg", *raw])
    expected = {BY_CONTENT: sorted([*heic, "7"]), TWO_FILES: ["b.jpg_original"], NO_PHOTO: ["notes.md"]}
    assert left_out == ({} if unreadable else {NOT_READ: ["raw.nef"]}) | expected
    with pytest.raises(UserError, match="found a raw photo"):
        read_photo(tmp_path / "raw.nef", 1)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_suffix_of_a_photo_belongs_to_a_format_that_is_read(tmp_path, suffix):
    gray = np.full((12, 16), 90, np.uint8)
    Image.fromarray(gray).save(tmp_path / f"a{suffix}")
    assert np.abs(read_photo(tmp_path / f"a{suffix}", 1)[:, :, 0].astype(int) - gray).max() <= 2
