"""Every training image is decoded once: in this run, in the next, by one of many processes; and threads read ahead."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.parallel import prefetch
from anomaly_lab.data import cache, store
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.layouts import mvtec_ad
from anomaly_lab.data.store import OnDemandStore, on_device, open_masks, open_store

DECODING = Decoding(64, 3)


class Counting(Decoding):
    """Counts the files that are decoded."""

    read_files: list = []  # noqa: RUF012

    def read(self, path):
        self.read_files.append(path)
        return super().read(path)


@pytest.fixture
def samples(parts):
    return mvtec_ad(str(parts.parent), "bar").train


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def counting():
    Counting.read_files = []
    return Counting(64, 3)


def opened(samples, folder, kept="disk", decoding=DECODING, **settings):
    return open_store(samples, decoding, 2, kept, folder, **settings)


def expected(samples, decoding=DECODING):
    return torch.stack([torch.from_numpy(decoding.read(sample.path)[0]) for sample in samples])


@pytest.mark.parametrize("kept", ["auto", "disk", "device", "memory"])
def test_the_images_are_those_of_the_files_wherever_they_are_kept(samples, folder, kept, capsys):
    found = opened(samples, folder, kept)
    assert torch.equal(found.images, expected(samples))
    assert found.samples == samples
    assert found.boxes == [(0, 0, 64, 64)] * 10
    assert "10 decoded training images, 0 MB" in capsys.readouterr().out
    assert (folder).exists() == (kept != "memory")


def test_images_go_to_a_gpu_that_has_room_and_device_insists(samples, folder, monkeypatch, capsys):
    store = opened(samples, folder, "memory")
    moved = []
    monkeypatch.setattr(torch.Tensor, "to", lambda images, device: moved.append(device) or images)
    gpu, size = torch.device("cuda", 0), store.images.nbytes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * size + 2, 0))
    for kept in ("auto", "device"):
        assert torch.equal(on_device(store, gpu, kept).images, store.images)
    assert moved == [gpu, gpu]
    assert "training images on cuda:0" in capsys.readouterr().out
    for kept, device in (("disk", gpu), ("memory", gpu), ("auto", torch.device("cpu"))):
        assert on_device(store, device, kept) is store
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * size, 0))
    assert on_device(store, gpu, "auto") is store
    with pytest.raises(UserError, match="data.cache: expected the images"):
        on_device(store, gpu, "device")
    assert len(moved) == 2


def test_the_second_run_decodes_nothing(samples, folder, counting):
    first = opened(samples, folder, decoding=counting)
    assert len(counting.read_files) == 10
    second = opened(samples, folder, decoding=counting)
    assert len(counting.read_files) == 10
    assert torch.equal(first.images, second.images)
    opened(samples[:5], folder, decoding=counting)  # other files, another entry
    assert len(counting.read_files) == 15


def test_runs_that_learn_from_parts_of_a_pool_share_its_images(samples, folder, counting, capsys):
    some, others = samples[:8], [samples[9], *samples[2:7]]
    first = opened(some, folder, decoding=counting, pool=samples)
    found = opened(others, folder, decoding=counting, pool=samples)
    assert len(counting.read_files) == 10
    assert "6 decoded training images among the 10 of all runs on these data" in capsys.readouterr().out
    for kept, asked in ((first, some), (found, others)):
        assert kept.samples == asked
        assert kept.boxes == [(0, 0, 64, 64)] * len(asked)
        images, rows = kept.take(torch.tensor([3, 0, 3]))
        assert torch.equal(images[rows], expected(asked)[[3, 0, 3]])
    opened(samples[:4], folder, decoding=counting, pool=samples)  # few
    opened(samples[:9], folder, decoding=counting, pool=samples[1:])  # one from elsewhere
    assert len(counting.read_files) == 10 + 4 + 9


@pytest.mark.parametrize("damaged", [0, 9])
def test_of_a_pool_only_what_a_run_wants_is_called_unreadable(samples, folder, damaged):
    samples[damaged].path.write_bytes(b"")
    for _ in range(2):  # decoded, and found
        found = opened(samples[:8], folder, on_error="skip", pool=samples)
        assert found.samples == [sample for sample in samples[:8] if sample != samples[damaged]]
        assert [str(samples[damaged].path) in line for line in found.unreadable] == [True] * (damaged < 8)
        images, rows = found.take(torch.arange(len(found.samples)))
        assert torch.equal(images[rows], expected(found.samples))
    with pytest.raises(UserError, match=str(samples[damaged].path)):
        opened(samples[:8], folder / "stop", pool=samples)


def test_a_pool_without_a_readable_photo_of_the_run_is_refused(samples, folder):
    for sample in samples[:6]:
        sample.path.write_bytes(b"")
    with pytest.raises(UserError, match="expected training images, found none that can be read: .*000"):
        opened(samples[:6], folder, on_error="skip", pool=samples)


def test_without_a_cache_each_batch_is_decoded(samples, folder, counting):
    found = opened(samples, folder, "none", counting)
    assert isinstance(found, OnDemandStore)
    before = len(counting.read_files)
    images, rows = found.take(torch.tensor([7, 2, 7, 7]))
    assert len(counting.read_files) == before + 2
    assert torch.equal(images[rows], expected(samples)[[7, 2, 7, 7]])
    assert not (folder).exists()


def test_changed_files_and_settings_are_decoded_again(samples, folder, counting):
    opened(samples, folder, decoding=counting)
    assert cv2.imwrite(str(samples[3].path), np.full((140, 140, 3), 7, np.uint8))
    found = opened(samples, folder, decoding=counting)
    assert len(counting.read_files) == 20
    assert (found.images[3] == 7).all()
    assert opened(samples, folder, decoding=Decoding(32, 3)).images.shape == (10, 3, 32, 32)


def test_an_entry_of_another_version_or_cut_short_is_not_read(samples, folder, counting, monkeypatch):
    opened(samples, folder, decoding=counting)
    (entry,) = (path for path in folder.iterdir() if path.is_dir())
    with (entry / "images").open("r+b") as file:
        file.truncate(1000)
    shutil.copytree(entry, folder / "kept")
    shutil.rmtree(entry)
    (folder / "kept").rename(entry)
    found = opened(samples, folder, decoding=counting)
    assert len(counting.read_files) == 20
    assert torch.equal(found.images, expected(samples))
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    opened(samples, folder, decoding=counting)
    assert len(counting.read_files) == 30


@pytest.mark.parametrize("damage", ["zeros", "[1]", "{}", "null", "[" * 100_000, "shape", "places"])
def test_a_damaged_entry_is_decoded_again(samples, folder, damage):
    opened(samples, folder)
    (entry,) = (path for path in folder.iterdir() if path.is_dir())
    about = json.loads((entry / "about.json").read_text())
    if damage == "zeros":
        (entry / "images").write_bytes(bytes((entry / "images").stat().st_size))
    else:
        found = {"shape": about | {"shape": 7}, "places": about | {"places": [[99, 0, 0, 64, 64]]}}.get(damage)
        (entry / "about.json").write_text(json.dumps(found) if found else damage)
    assert torch.equal(opened(samples, folder).images, expected(samples))
    assert json.loads((entry / "about.json").read_text()) == about


def test_nothing_written_into_the_images_reaches_the_cache(samples, folder):
    opened(samples, folder).images.fill_(0)
    assert torch.equal(opened(samples, folder).images, expected(samples))


def test_a_full_disk_is_told_and_the_run_goes_on(samples, folder, monkeypatch, capsys):
    def full(path, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_reserve", full)
    found = opened(samples, folder)
    assert "No space left on device" in (told := capsys.readouterr().out)
    assert "continuing without it" in told
    assert torch.equal(found.images, expected(samples))
    assert not [path for path in folder.iterdir() if path.is_dir()]


@pytest.mark.parametrize(("free", "fits"), [(0, False), (10 * 3 * 64 * 64 - 1, False), (10 * 3 * 64 * 64, True)])
def test_images_that_do_not_fit_the_free_disk_are_refused_before_they_are_decoded(
    samples, folder, counting, monkeypatch, free, fits
):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    if fits:
        assert len(opened(samples, folder, decoding=counting).images) == 10
        return
    monkeypatch.setattr(store, "memory_of_machine", lambda: free)
    told = (
        "data.image_size: expected decoded images that fit the free disk or the memory, found 10 images of 64 x 64 px"
    )
    with pytest.raises(UserError, match=f"{told}, which take 0.0 GB, and 0.0 GB free in .* and 0.0 GB of memory; set "):
        opened(samples, folder, decoding=counting)
    assert not counting.read_files
    assert not [path for path in folder.iterdir() if path.is_dir()]
    assert len(opened(samples, folder, "memory", counting).images) == 10


def test_images_that_fit_the_memory_alone_stay_there_and_that_is_said(samples, folder, counting, monkeypatch, capsys):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: SimpleNamespace(free=9))
    assert len(opened(samples, folder, decoding=counting).images) == 10
    assert "cannot be used" in (said := capsys.readouterr().out)
    assert "10 images of 64 x 64 px, which take 0.0 GB, and 0.0 GB free); continuing without it" in said


def test_the_numbers_of_images_that_are_refused_or_large(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**35))
    monkeypatch.setattr(store, "memory_of_machine", lambda: 2**34)
    with pytest.raises(UserError, match=r"2 images of 100000 x 100000 px, which take 55.9 GB, and 32.0 GB free in"):
        store._check_room((2, 3, 100000, 100000), tmp_path)
    store._check_room((2, 3, 32768, 32768), tmp_path)
    store._check_room((2, 3, 16384, 16384), tmp_path)
    assert capsys.readouterr().out == f"decoding 2 images of 32768 x 32768 px takes 6 GB in {tmp_path}\n"


def test_a_folder_that_cannot_be_made_is_told(samples, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert len(opened(samples, tmp_path / "file/cache").images) == 10
    assert "cannot be used" in capsys.readouterr().out


def test_a_read_only_data_folder_is_enough(samples, folder, parts):
    parts.chmod(0o555)
    try:
        assert len(opened(samples, folder).images) == 10
        assert not list(parts.rglob("*.lock"))
    finally:
        parts.chmod(0o755)


def test_an_image_that_changes_while_it_is_read_is_named(samples, folder):
    class Changing(Decoding):
        def read(self, path):
            answer = super().read(path)
            if path == samples[4].path:
                os.utime(path, (1, 1))
            return answer

    with pytest.raises(UserError, match=r"004.png: expected a file that stays as it is"):
        opened(samples, folder, decoding=Changing(64, 3))
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_what_cannot_be_read_stops_or_is_left_out_and_named(samples, folder):
    samples[0].path.write_bytes(b"junk")
    samples[6].path.write_bytes(b"")
    with pytest.raises(UserError, match=r"000.png: expected a readable image.*; data.on_error=skip leaves out"):
        opened(samples, folder)
    for _ in range(2):  # the second time from the cache
        found = opened(samples, folder, on_error="skip")
        assert found.samples == [sample for i, sample in enumerate(samples) if i not in (0, 6)]
        assert torch.equal(found.images, expected(found.samples))
        assert [reason.partition(": ")[::2] for reason in found.unreadable] == [
            (str(samples[0].path), "expected a readable image, found: no image (it begins with b'junk')"),
            (str(samples[6].path), "expected a readable image, found: empty file"),
        ]
        assert found.sizes == [(140, 140)] * 8
        with pytest.raises(UserError, match=r"000.png: expected a readable image"):
            opened(samples, folder)  # however much of it is in the cache
    for sample in samples:
        sample.path.write_bytes(b"")
    with pytest.raises(UserError, match="expected training images, found none that can be read"):
        opened(samples, folder, on_error="skip")


SLOWLY = """
import sys, time
from pathlib import Path
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.layouts import mvtec_ad
from anomaly_lab.data.store import open_store
class Slow(Decoding):
    def read(self, path):
        time.sleep(0.05)
        print("decoded", path.name, flush=True)
        return super().read(path)
while not Path(sys.argv[3]).exists():
    time.sleep(0.01)
found = open_store(mvtec_ad(sys.argv[1], "bar").train, Slow(64, 3), 1, "disk", Path(sys.argv[2]))
print("sum", int(found.images.long().sum()))
"""


@pytest.mark.slow
def test_of_processes_on_a_cold_cache_one_decodes(samples, folder, counting, parts, tmp_path):
    """And when it is killed half way, another one does it from the start."""
    start = [sys.executable, "-c", SLOWLY, str(parts.parent), str(folder)]
    victim, other = (
        subprocess.Popen([*start, str(tmp_path / name)], stdout=subprocess.PIPE, text=True) for name in ("one", "two")
    )
    (tmp_path / "one").touch()
    assert victim.stdout.readline().startswith("decoded")
    (tmp_path / "two").touch()
    victim.kill()
    victim.communicate()
    found = opened(samples, folder, decoding=counting)
    told = other.communicate(timeout=120)[0]
    theirs = told.count("decoded ") - told.count("decoded training")
    assert sorted([theirs, len(counting.read_files)]) == [0, 10]
    assert torch.equal(found.images, expected(samples))
    assert told.splitlines()[-1] == f"sum {int(found.images.long().sum())}"


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_order_is_kept_and_exceptions_are_passed_on(workers):
    assert list(prefetch(lambda x: x * x, range(50), workers)) == [x * x for x in range(50)]

    def fails(x):
        if x == 7:
            raise ValueError("seven")
        return x

    results = prefetch(fails, range(50), workers)
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="seven"):
        next(results)


def test_a_file_replaced_under_the_same_name_size_and_time_gives_its_own_pixels(samples, folder):
    path = samples[3].path
    before, status = opened(samples, folder).images.clone(), path.stat()
    image = cv2.imread(str(path))
    assert cv2.imwrite(str(path), image[::-1])  # the same gray levels turned: nearly the same size
    difference = status.st_size - path.stat().st_size
    data = path.read_bytes()
    if difference > 0:
        path.write_bytes(data + bytes(difference))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = opened(samples, folder).images
    assert torch.equal(after, expected(samples))
    assert not torch.equal(after[3], before[3])


def test_a_file_that_changes_between_its_hash_and_its_decoding_is_named(samples, folder):
    class Replacing(Decoding):
        def read(self, path):
            if path == samples[0].path:  # long before that one is decoded
                assert cv2.imwrite(str(samples[9].path), np.full((140, 140, 3), 7, np.uint8))
            return super().read(path)

    with pytest.raises(UserError, match=r"009.png: expected a file that stays as it is, found that it changed"):
        open_store(samples, Replacing(64, 3), 0, "disk", folder)
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_a_mask_image_counts_by_what_it_shows(samples, folder, counting, tmp_path):
    """Rewritten at the same path with the same size it decodes again; a copy of it elsewhere does not."""
    white = np.zeros((140, 140), np.uint8)
    white[20:80, 10:90] = 255
    path = tmp_path / "region.bmp"
    assert cv2.imwrite(str(path), white)
    decoding = replace(counting, region=str(path))
    before, size = opened(samples, folder, decoding=decoding).images.clone(), path.stat().st_size
    assert cv2.imwrite(str(path), white[::-1, ::-1])
    os.utime(path, (1, 1))
    assert path.stat().st_size == size
    after = opened(samples, folder, decoding=decoding).images
    assert len(counting.read_files) == 20
    assert torch.equal(after, expected(samples, decoding))
    assert not torch.equal(after, before)
    copy = shutil.copy(path, tmp_path / "copy.bmp")
    again = opened(samples, folder, decoding=replace(counting, region=str(copy))).images
    assert len(counting.read_files) == 30  # by `expected`, not by the store
    assert torch.equal(again, after)


def test_copies_of_the_photos_share_an_entry(samples, folder, counting, tmp_path, parts):
    opened(samples, folder, decoding=counting)
    shutil.copytree(parts.parent, tmp_path / "elsewhere")
    count = len(counting.read_files)
    found = opened(mvtec_ad(str(tmp_path / "elsewhere"), "bar").train, folder, decoding=counting)
    assert len(counting.read_files) == count
    assert torch.equal(found.images, expected(samples))


@pytest.mark.parametrize("workers", [0, 2])
def test_masks_are_those_of_the_photos_that_have_one(parts, workers):
    every = mvtec_ad(str(parts.parent), "bar").test  # five good ones, five defective ones
    mixed = [*every[:2], every[5], every[6]._replace(mask_path=None), every[7]]
    masks = open_masks(mixed, Decoding(140, 3), workers)
    assert masks.place.tolist() == [-1, -1, 0, -1, 1]
    for image, sample in zip(masks.images, (every[5], every[7]), strict=True):
        assert np.array_equal(image[0].numpy(), cv2.imread(str(sample.mask_path), cv2.IMREAD_GRAYSCALE))
    assert open_masks(every[:5], DECODING, workers).images.shape == (0, 1, 64, 64)
