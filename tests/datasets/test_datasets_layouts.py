"""Every loader on a small generated folder in its benchmark's own layout, and what can be wrong."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from blcf_utils import datasets
from blcf_utils.datasets import (
    check_dataset,
    dataset_names,
    distractors,
    flickrlogos,
    holidays,
    instre,
    load_dataset,
    load_folder,
    load_groundtruth_json,
    register_dataset,
    revisited,
    sculptures,
    vgg_groundtruth,
)
from blcf_utils.datasets.files import by_stem, find_images, some_names
from blcf_utils.datasets.joining import Expected
from blcf_utils.ground.errors import StudyError

SIZE = (64, 48)


def picture(path: Path, size=SIZE, orientation: int | None = None) -> Path:
    """Write a small image with noise in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3))
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(pixels.astype(np.uint8)).save(path, exif=exif)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def cell(values) -> np.ndarray:
    """A MATLAB cell array."""
    out = np.empty((1, len(values)), dtype=object)
    out[0, :] = values
    return out


def structs(entries: list[dict]) -> np.ndarray:
    """A MATLAB struct array."""
    out = np.empty((1, len(entries)), dtype=[(key, object) for key in entries[0]])
    for i, entry in enumerate(entries):
        for key, value in entry.items():
            out[0, i][key] = np.atleast_2d(value)
    return out


def names_of(dataset, indices) -> list[str]:
    return [dataset.images[i].name for i in indices]


def vgg_text(folder: Path, query: str, image: str, good, ok, junk, box="4 4 40 40") -> None:
    text(folder / f"{query}_query.txt", f"{image} {box}\n")
    for kind, members in (("good", good), ("ok", ok), ("junk", junk)):
        text(folder / f"{query}_{kind}.txt", "".join(f"{m}\n" for m in members))


# VGG: Oxford, Paris, with distractors, Sculptures


@pytest.fixture
def oxford(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(vgg_groundtruth.EXPECTED, "oxford5k", Expected(4, 1))
    root = tmp_path / "oxford5k"
    for name in ("keble_000001", "keble_000002", "keble_000003", "oxford_000009"):
        picture(root / f"{name}.jpg")
    vgg_text(
        root / "groundtruth",
        "keble_1",
        "oxc1_keble_000002",
        ["keble_000002"],
        ["keble_000001"],
        ["keble_000003"],
    )
    return root


def test_oxford(oxford):
    dataset = load_dataset("oxford5k", root=oxford)
    check_dataset(dataset, expected_images=4, expected_queries=1)
    (query,) = dataset.queries
    assert query.image == oxford / "keble_000002.jpg"
    assert names_of(dataset, query.positives) == ["keble_000001.jpg", "keble_000002.jpg"]
    assert names_of(dataset, query.junk) == ["keble_000003.jpg"]
    assert all(path.is_absolute() for path in dataset.images)
    assert dataset.notes == ""


def test_wrong_count_names_both_numbers(oxford):
    picture(oxford / "stray.jpg")
    with pytest.raises(StudyError, match=r"found 5 database images, expected the published 4"):
        load_dataset("oxford5k", root=oxford)


def test_partial_restricts_and_says_so(oxford):
    (oxford / "keble_000001.jpg").unlink()
    with pytest.raises(StudyError, match=r"1 of 4 images are missing.*: keble_000001; complete"):
        load_dataset("oxford5k", root=oxford)
    with pytest.warns(UserWarning, match=r"left out of database.*keble_000001"):
        dataset = load_dataset("oxford5k", root=oxford, partial=True)
    assert names_of(dataset, dataset.queries[0].positives) == ["keble_000002.jpg"]
    assert "keble_000001" in dataset.notes
    check_dataset(dataset)


def test_missing_and_malformed_vgg_files(oxford):
    junk = oxford / "groundtruth" / "keble_1_junk.txt"
    junk.unlink()
    with pytest.raises(StudyError, match=r"keble_1_junk.txt is missing"):
        load_dataset("oxford5k", root=oxford)
    junk.touch()
    text(oxford / "groundtruth" / "keble_1_query.txt", "oxc1_keble_000002 1 2 three 4")
    with pytest.raises(StudyError, match=r"keble_1_query.txt: expected an image name and x1 y1"):
        load_dataset("oxford5k", root=oxford)
    for path in (oxford / "groundtruth").iterdir():
        path.unlink()
    with pytest.raises(StudyError, match=r"_query.txt.*found none"):
        load_dataset("oxford5k", root=oxford)


def test_paris_in_sub_folders_or_flat(tmp_path, monkeypatch):
    monkeypatch.setitem(vgg_groundtruth.EXPECTED, "paris6k", Expected(2, 1))
    for layout, where in (("flat", ""), ("folders", "paris/louvre")):
        root = tmp_path / layout
        for name in ("paris_louvre_000001", "paris_louvre_000002"):
            picture(root / where / f"{name}.jpg")
        text(root / where / "paris_louvre_000136.jpg", "<html>302 Found</html>")
        truth = ["paris_louvre_000001", "paris_louvre_000002"]
        vgg_text(root / "gt", "louvre_1", truth[0], [], truth, [])
        dataset = load_dataset("paris6k", root=root)
        assert [p.stem for p in dataset.images] == truth
        assert dataset.queries[0].positives == (0, 1)
        check_dataset(dataset)


def test_same_name_twice_is_an_error(oxford):
    picture(oxford / "again" / "keble_000001.jpg")
    with pytest.raises(StudyError, match=r"share the name keble_000001"):
        load_dataset("oxford5k", root=oxford)


@pytest.mark.parametrize("beside", [True, False])
def test_oxford105k(oxford, monkeypatch, beside):
    monkeypatch.setattr(distractors, "EXPECTED", 3)
    monkeypatch.setenv("BLCF_DATA", str(oxford.parent))
    folder = (oxford.parent if beside else oxford) / "oxc1_100k"
    picture(folder / "beach" / "oxc1_beach_000001.jpg")
    picture(folder / "beach" / "oxc1_beach_000002.jpg")
    text(folder / "cat" / "oxc1_cat_000001.jpg", "not an image")
    with pytest.warns(UserWarning, match=r"1 unreadable distractors left out: oxc1_cat_000001"):
        dataset = load_dataset("oxford105k")
    assert dataset.name == "oxford105k"
    assert len(dataset.images) == 6
    assert dataset.images[4:] == tuple(find_images(folder / "beach"))
    assert dataset.queries == load_dataset("oxford5k").queries
    monkeypatch.setattr(distractors, "EXPECTED", 100_071)
    with pytest.raises(StudyError, match=r"found 3 distractors, expected the published 100,071"):
        load_dataset("oxford105k")


def test_sculptures(tmp_path, monkeypatch):
    monkeypatch.setitem(sculptures.EXPECTED, "all", Expected(3, 1))
    monkeypatch.setitem(sculptures.EXPECTED, "test", Expected(2, 1))
    picture(tmp_path / "train" / "Henry_Moore_Arch_Leg_0000.jpg")
    picture(tmp_path / "test" / "Henry_Moore_Locking_Piece_0001.jpg")
    picture(tmp_path / "test" / "Rodin_Stanford_0250.jpg")
    name = "Henry_Moore_Locking_Piece_0001"
    vgg_text(tmp_path / "groundtruth", "locking_piece_1", name, [name], [], [])
    whole = load_dataset("sculptures6k", root=tmp_path)
    half = load_dataset("sculptures6k", root=tmp_path, split="test")
    assert (len(whole.images), len(half.images)) == (3, 2)
    assert names_of(whole, whole.queries[0].positives) == [f"{name}.jpg"]
    check_dataset(whole)
    with pytest.raises(StudyError, match=r"unknown split of Sculptures6k 'both'"):
        load_dataset("sculptures6k", root=tmp_path, split="both")


# MATLAB ground truth: revisited, INSTRE, Holidays


@pytest.fixture
def roxford(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(revisited.EXPECTED, "roxford5k", Expected(5, 2))
    root = tmp_path / "roxford5k"
    names = ["d_000001", "b_000002", "a_000003", "c_000004", "e_000005"]
    for name in (*names, "q_000001", "q_000002"):
        picture(root / "jpg" / f"{name}.jpg")
    box = [[1, 2, 30, 40]]
    savemat(
        root / "gnd_roxford5k.mat",
        {
            "imlist": cell(names),
            "qimlist": cell(["q_000001", "q_000002"]),
            "gnd": structs(
                [
                    {"easy": [1], "hard": [2, 3], "junk": [4], "bbx": box},
                    {"easy": [], "hard": [5], "junk": [1], "bbx": box},
                ]
            ),
        },
    )
    return root


def test_revisited_setups(roxford):
    with pytest.warns(UserWarning, match=r"no positive \(1\): q_000002"):
        easy = load_dataset("roxford5k-easy", root=roxford)
    medium = load_dataset("roxford5k-medium", root=roxford)
    hard = load_dataset("roxford5k-hard", root=roxford)
    assert [p.stem[0] for p in easy.images] == ["d", "b", "a", "c", "e"]
    found = [[(q.positives, q.junk) for q in d.queries] for d in (easy, medium, hard)]
    assert found == [
        [((0,), (1, 2, 3))],
        [((0, 1, 2), (3,)), ((4,), (0,))],
        [((1, 2), (0, 3)), ((4,), (0,))],
    ]
    assert easy.queries[0].box == (1, 2, 30, 40)
    assert easy.protocol.query_image == "absent"
    check_dataset(medium)


def test_revisited_index_out_of_range(roxford):
    truth = {"easy": [6], "hard": [2], "junk": [4], "bbx": [[1, 2, 3, 4]]}
    content = {"imlist": cell(["a"] * 5), "qimlist": cell(["q"]), "gnd": structs([truth])}
    savemat(roxford / "gnd_roxford5k.mat", content)
    with pytest.raises(StudyError, match=r"index 6 is outside 1 to 5"):
        load_dataset("roxford5k-easy", root=roxford)


def test_pickles_are_refused_and_mat_files_checked(roxford):
    path = roxford / "gnd_roxford5k.mat"
    path.write_bytes(b"<html>")
    with pytest.raises(StudyError, match=r"gnd_roxford5k.mat: expected a MATLAB file"):
        load_dataset("roxford5k-hard", root=roxford)
    savemat(path, {"imlist": cell(["a"])})
    with pytest.raises(StudyError, match=r"lacks the variables qimlist, gnd"):
        load_dataset("roxford5k-hard", root=roxford)
    path.rename(path.with_suffix(".pkl"))
    with pytest.raises(StudyError, match=r"gnd_roxford5k.pkl: pickles are not read"):
        load_dataset("roxford5k-hard", root=roxford)
    path.with_suffix(".pkl").unlink()
    with pytest.raises(StudyError, match=r"gnd_roxford5k.mat is missing"):
        load_dataset("roxford5k-hard", root=roxford)


@pytest.fixture
def instre_root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(instre, "EXPECTED", Expected(3, 1))
    names = [f"INSTRE-S1/{n}.jpg" for n in ("01a_book/001", "01a_book/002", "01b_cup/001")]
    for name in (*names, "INSTRE-S1/01a_book/003.jpg"):
        picture(tmp_path / name)
    truth = structs([{"ok": [1, 2], "bbx": [[1, 2, 30, 40]]}])
    content = {"imlist": cell(names), "qimlist": cell(["INSTRE-S1/01a_book/003.jpg"])}
    savemat(tmp_path / "gnd_instre.mat", {**content, "gnd": truth})
    return tmp_path


def test_instre(instre_root):
    dataset = load_dataset("instre", root=instre_root)
    (query,) = dataset.queries
    assert query.positives == (0, 1)
    assert (query.id, query.instance) == ("INSTRE-S1/01a_book/003", "INSTRE-S1/01a_book")
    assert dataset.extra_images == (instre_root / "INSTRE-S1/01a_book/003.jpg",)
    off = load_dataset("instre", root=instre_root, off_by_one=True)
    assert off.queries[0].positives == dataset.published_code.queries[0].positives == (1, 2)
    assert off.published_code is None
    assert off.ground_truth_digest != dataset.ground_truth_digest
    check_dataset(dataset)


def test_instre_missing_query_image(instre_root):
    (instre_root / "INSTRE-S1/01a_book/003.jpg").unlink()
    with pytest.raises(StudyError, match=r"1 of 4 images are missing.*01a_book/003.jpg"):
        load_dataset("instre", root=instre_root)
    with pytest.raises(StudyError, match=r"no query can be used"):
        load_dataset("instre", root=instre_root, partial=True)


def test_holidays_by_naming_rule_and_by_file(tmp_path, monkeypatch):
    monkeypatch.setattr(holidays, "EXPECTED", Expected(5, 2))
    names = ["100000", "100001", "100002", "100100", "100101"]
    for name in names:
        picture(tmp_path / "jpg" / f"{name}.jpg")
    ruled = load_dataset("holidays", root=tmp_path)
    gnd = structs([{"ok": [2, 3], "junk": [1]}, {"ok": [5], "junk": [4]}])
    content = {"imlist": cell(names), "qidx": np.array([[1], [4]], dtype=np.uint16), "gnd": gnd}
    savemat(tmp_path / "gnd_holidays.mat", content)
    filed = load_dataset("holidays", root=tmp_path)
    assert ruled == filed
    assert [(q.positives, q.junk) for q in filed.queries] == [((1, 2), (0,)), ((4,), (3,))]
    assert filed.protocol.query_image == "junk"
    check_dataset(filed)
    (tmp_path / "gnd_holidays.mat").unlink()
    picture(tmp_path / "jpg" / "cover.jpg")
    with pytest.raises(StudyError, match=r"named by number such as 100000.jpg, found cover"):
        load_dataset("holidays", root=tmp_path)


# FlickrLogos-32


@pytest.fixture(params=["plain", "relpaths"])
def logos(request, tmp_path, monkeypatch) -> Path:
    for constant, value in (("CLASSES", 2), ("PER_CLASS", 3), ("NO_LOGO_IMAGES", 2)):
        monkeypatch.setattr(flickrlogos, constant, value)
    monkeypatch.setitem(flickrlogos.EXPECTED, "trainval", Expected(5, 2))
    monkeypatch.setitem(flickrlogos.EXPECTED, "all", Expected(8, 2))
    top = tmp_path / "FlickrLogos-v2"
    splits = {
        "train": ["adidas/1", "HP/11"],
        "val": ["adidas/2", "HP/12", "no-logo/21"],
        "test": ["adidas/3", "HP/13", "no-logo/22"],
    }
    for split, images in splits.items():
        for image in images:
            picture(top / "classes" / "jpg" / f"{image}.jpg")
        if request.param == "plain":
            lines = [f"{i.replace('/', ',')}.jpg" for i in images]
            text(top / f"{split}set.txt", "\n".join(lines))
        else:
            lines = [f"classes/jpg/{i}.jpg" for i in images]
            text(top / f"{split}set.relpaths.txt", "\n".join(lines))
    header = "x y width height\n"
    masks = top / "classes" / "masks"
    text(masks / "adidas" / "3.jpg.bboxes.txt", f"{header}1 2 5 5\n10 8 20 30\n")
    text(masks / "hp" / "13.jpg.bboxes.txt", f"{header}0 0 64 48\n")
    return tmp_path


def test_flickrlogos(logos):
    dataset = load_dataset("flickrlogos32", root=logos)
    check_dataset(dataset, expected_images=5, expected_queries=2)
    adidas, hp = dataset.queries
    assert (adidas.instance, adidas.box) == ("adidas", (10, 8, 30, 38))
    assert names_of(dataset, adidas.positives) == ["1.jpg", "2.jpg"]
    assert names_of(dataset, hp.positives) == ["11.jpg", "12.jpg"]
    assert len(dataset.extra_images) == 2

    whole = load_dataset("flickrlogos32", root=logos, database="all")
    assert len(whole.images) == 8
    assert names_of(whole, whole.queries[0].junk) == ["3.jpg"]
    assert names_of(whole, whole.queries[0].positives) == ["1.jpg", "2.jpg"]


def test_flickrlogos_faults(logos):
    top = logos / "FlickrLogos-v2"
    boxes = text(top / "classes" / "masks" / "adidas" / "3.jpg.bboxes.txt", "x y width height\n")
    with pytest.raises(StudyError, match=r"3.jpg.bboxes.txt: expected a header and at least one"):
        load_dataset("flickrlogos32", root=logos)
    boxes.unlink()
    with pytest.raises(StudyError, match=r"3.jpg.bboxes.txt is missing"):
        load_dataset("flickrlogos32", root=logos)
    (top / "classes" / "jpg" / "adidas" / "1.jpg").unlink()
    with pytest.raises(StudyError, match=r"expected 3 images of each class, found 2 of adidas"):
        load_dataset("flickrlogos32", root=logos)
    for path in top.glob("valset*"):
        path.unlink()
    picture(top / "classes" / "jpg" / "adidas" / "1.jpg")
    with pytest.raises(StudyError, match=r"valset.txt is missing"):
        load_dataset("flickrlogos32", root=logos)


# TRECVID


def mask_image(path: Path, box, size=SIZE) -> None:
    pixels = np.zeros((size[1], size[0]), dtype=np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = 255
    Image.fromarray(pixels).save(path)


@pytest.fixture
def trecvid(tmp_path) -> Path:
    for frame in ("shot2_1/1", "shot2_1/2", "shot2_10/1", "shot3_1/1"):
        picture(tmp_path / "keyframes" / f"{frame}.jpg")
    for number in (1, 2):
        picture(tmp_path / "queries" / f"9069.{number}.src.png")
        mask_image(tmp_path / "queries" / f"9069.{number}.mask.png", (5, 6, 20, 30))
    text(tmp_path / "qrels.txt", "9069 0 shot3_1 1\n9069 0 shot2_10 0\n9069 0 shot2_1 1\n")
    return tmp_path


def test_trecvid(trecvid):
    dataset = load_dataset("trecvid-ins", root=trecvid)
    check_dataset(dataset, expected_images=4, expected_queries=2)
    assert dataset.unit_names == ("shot2_1", "shot2_10", "shot3_1")
    assert dataset.units == ("shot2_1", "shot2_1", "shot2_10", "shot3_1")
    first = dataset.queries[0]
    assert (first.id, first.instance, first.positives) == ("9069.1", "9069", (0, 2))
    assert first.box == (5, 6, 20, 30)
    assert first.mask == trecvid / "queries" / "9069.1.mask.png"
    assert dataset.protocol.ap == "rectangular"


def test_trecvid_says_which_relevant_shots_are_absent(trecvid):
    text(trecvid / "qrels.txt", "9069 0 shot3_1 1\n9069 0 shot9_9 1\n")
    with pytest.warns(UserWarning, match=r"topic 9069: 1 of 2 relevant shots .* shot9_9"):
        dataset = load_dataset("trecvid-ins", root=trecvid)
    assert dataset.queries[0].positives == (2,)
    text(trecvid / "qrels.txt", "9070 0 shot3_1 1\n")
    with pytest.raises(StudyError, match=r"no topic can be used.*9069.1, 9069.2"):
        load_dataset("trecvid-ins", root=trecvid)


def test_trecvid_faults(trecvid):
    mask = trecvid / "queries" / "9069.2.mask.png"
    mask_image(mask, (0, 0, 0, 0))
    with pytest.raises(StudyError, match=r"9069.2.mask.png: expected white pixels"):
        load_dataset("trecvid-ins", root=trecvid)
    mask_image(mask, (0, 0, 5, 5), (32, 32))
    with pytest.raises(StudyError, match=r"9069.2.mask.png: is 32 x 32 pixels, expected .*64 x 48"):
        load_dataset("trecvid-ins", root=trecvid)
    mask.unlink()
    with pytest.raises(StudyError, match=r"its mask 9069.2.mask.png is missing"):
        load_dataset("trecvid-ins", root=trecvid)
    (trecvid / "queries" / "9069.2.src.png").rename(trecvid / "queries" / "9069.src.png")
    with pytest.raises(StudyError, match=r"9069.src.png: expected a name like"):
        load_dataset("trecvid-ins", root=trecvid)
    (trecvid / "queries" / "9069.src.png").unlink()
    text(trecvid / "qrels.txt", "9069 0 shot3_1\n")
    with pytest.raises(StudyError, match=r"qrels.txt, line 1: expected 'topic 0 shot relevance'"):
        load_dataset("trecvid-ins", root=trecvid)
    text(trecvid / "old.qrels", "")
    with pytest.raises(StudyError, match=r"found old.qrels, qrels.txt"):
        load_dataset("trecvid-ins", root=trecvid)
    picture(trecvid / "keyframes" / "loose.jpg")
    with pytest.raises(StudyError, match=r"one sub-folder per shot, found loose.jpg"):
        load_dataset("trecvid-ins", root=trecvid)


# groundtruth.json


@pytest.fixture
def described(tmp_path) -> Path:
    root = tmp_path / "my-set"
    for name in ("b.jpg", "a.jpg", "c.jpg"):
        picture(root / "images" / name)
    picture(root / "queries" / "1.jpg")
    query = {"instance": 3, "positives": ["b.jpg"], "label": "ignored"}
    content = {
        "name": "ignored",
        "images": ["b.jpg", "a.jpg", "c.jpg"],
        "queries": [
            {"id": "q1", "image": "queries/1.jpg", "bbox": [1, 2, 30, 40], "junk": [], **query},
            {"id": "q2", "image": "images/c.jpg", "bbox": None, **query},
        ],
    }
    text(root / "groundtruth.json", json.dumps(content))
    return root


def rewrite(root: Path, change) -> None:
    path = root / "groundtruth.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_groundtruth_json_is_found_by_its_folder(described, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(described.parent))
    dataset = load_dataset("my-set")
    check_dataset(dataset)
    assert dataset == load_groundtruth_json(described, name="my-set")
    assert [p.name for p in dataset.images] == ["b.jpg", "a.jpg", "c.jpg"]
    outside, inside = dataset.queries
    assert (outside.box, outside.positives, outside.junk) == ((1, 2, 30, 40), (0,), ())
    assert (inside.box, inside.positives, inside.junk) == (None, (0,), (2,))
    assert inside.instance == "3"
    assert dataset.protocol.query_image == "junk"
    rewrite(described, lambda content: content["queries"].pop())
    assert load_dataset("my-set").protocol.query_image == "absent"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "expected the key images with a list"),
        (lambda c: c["images"].append("a.jpg"), "images lists a name twice"),
        (lambda c: c["queries"][0].pop("id"), "query 0: expected the key id"),
        (lambda c: c["queries"][0].pop("positives"), "query q1: expected the key positives"),
        (lambda c: c["queries"][0].update(positives="b.jpg"), "key positives with a list"),
        (lambda c: c["queries"][1].update(junk=["z.jpg"]), "query q2: junk names z.jpg"),
        (lambda c: c["queries"][0].update(bbox=[1, 2, 3]), "query q1: expected bbox as"),
        (lambda c: c["images"].append("z.jpg"), "1 of 5 images are missing .*images/z.jpg"),
    ],
)
def test_groundtruth_json_faults(described, change, message):
    rewrite(described, change)
    with pytest.raises(StudyError, match=message):
        load_groundtruth_json(described, name="my-set")


def test_groundtruth_json_that_is_not_json(described):
    text(described / "groundtruth.json", "{")
    with pytest.raises(StudyError, match=r"groundtruth.json: not valid JSON"):
        load_groundtruth_json(described, name="my-set")


# a folder of photographs

HEADER = "id,image,x1,y1,x2,y2,positives,junk\n"


@pytest.fixture
def photographs(tmp_path) -> Path:
    root = tmp_path / "holiday"
    for name in ("b.JPG", "2024/a.png", "2024/c.webp", "2025/a.tif", "d.bmp", "e.jpeg"):
        picture(root / name)
    picture(root / "queries" / "q.jpg")
    text(root / "notes.txt", "no image")
    picture(root / ".thumbnails" / "b.jpg")
    return root


def test_folder_without_csv_is_searched_only(photographs):
    dataset = load_folder(photographs, name="holiday")
    relative = [p.relative_to(photographs).as_posix() for p in dataset.images]
    assert relative == sorted(relative)
    assert set(relative) == {
        "b.JPG",
        "2024/a.png",
        "2024/c.webp",
        "2025/a.tif",
        "d.bmp",
        "e.jpeg",
        "queries/q.jpg",
    }
    assert dataset.queries == ()
    assert dataset.exif_orientation
    check_dataset(dataset)


def test_folder_with_csv(photographs, monkeypatch):
    lines = "one,b.JPG,1,2,30,40,c.webp;2025/a.tif,d.bmp\ntwo,queries/q.jpg,,,,,e.jpeg,\n"
    text(photographs / "queries.csv", "\ufeff" + HEADER + lines)
    monkeypatch.setenv("BLCF_DATA", str(photographs.parent))
    dataset = load_dataset("holiday")
    check_dataset(dataset, expected_images=6, expected_queries=2)
    one, two = dataset.queries
    assert one.box == (1, 2, 30, 40)
    assert names_of(dataset, one.positives) == ["c.webp", "a.tif"]
    assert names_of(dataset, one.junk) == ["b.JPG", "d.bmp"]
    assert two.box is None
    assert dataset.extra_images == (photographs / "queries" / "q.jpg",)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("one,b.JPG,1,2,30,40,,\n", "line 2: query one has no positives, so its AP cannot"),
        ("one,z.jpg,,,,,d.bmp,\n", "line 2: image names 'z.jpg', found no such file"),
        ("one,b.JPG,,,,,a.gif,\n", "line 2: positives names 'a.gif', found no such file"),
        ("one,b.JPG,1,2,,40,d.bmp,\n", "line 2: expected numbers in x1, y1, x2 and y2"),
        ("one,b.JPG,1,2,x,40,d.bmp,\n", "found 1,2,x,40"),
        (",b.JPG,,,,,d.bmp,\n", "line 2: the column id is blank"),
        ("a,b.JPG,,,,,d.bmp,\na,d.bmp,,,,,b.JPG,\n", "line 3: the id a is used twice"),
        ("one,b.JPG,,,,,d.bmp,d.bmp\n", "d.bmp is both positive and junk"),
        ("one,b.JPG,,,,,q.jpg,\n", "positives names queries/q.jpg, which is a query image"),
        ("one,b.JPG,,,,,d.bmp\n", "line 2: expected as many fields as the header"),
        ("one,b.JPG,,,,,d.bmp,,,\n", "line 2: expected as many fields as the header"),
        ("", "no query in it"),
    ],
)
def test_csv_faults_name_the_line(photographs, lines, message):
    text(photographs / "queries.csv", HEADER + lines)
    with pytest.raises(StudyError, match=message):
        load_folder(photographs, name="holiday")


def test_csv_ambiguous_name_columns_and_encoding(photographs):
    picture(photographs / "2025" / "c.webp")
    table = text(photographs / "queries.csv", HEADER + "one,b.JPG,,,,,c.webp,\n")
    with pytest.raises(StudyError, match=r"names 'c.webp', found 2 files of that name"):
        load_folder(photographs, name="holiday")
    text(table, "id,image,positives\none,b.JPG,d.bmp\n")
    with pytest.raises(StudyError, match=r"the columns x1, y1, x2, y2, junk are missing"):
        load_folder(photographs, name="holiday")
    table.write_bytes(HEADER.encode() + b"\xff\xfe\n")
    with pytest.raises(StudyError, match=r"not a UTF-8 CSV"):
        load_folder(photographs, name="holiday")
    with pytest.raises(StudyError, match=r"own.csv is missing"):
        load_folder(photographs, name="holiday", queries_csv="own.csv")


def test_folder_without_photographs(tmp_path):
    with pytest.raises(StudyError, match=r"no photograph in"):
        load_folder(tmp_path, name="empty")


# checks


@pytest.fixture
def checked(described):
    return load_groundtruth_json(described, name="my-set")


def test_check_names_missing_files(checked):
    checked.images[1].unlink()
    with pytest.raises(StudyError, match=r"1 files are missing .*: images/a.jpg"):
        check_dataset(checked)


def test_check_names_corrupt_files(checked):
    truncated, page = checked.images[0], checked.images[2]
    truncated.write_bytes(truncated.read_bytes()[:-200])
    page.write_text("<html>404</html>")
    message = (
        r"2 files cannot be decoded.*images/b.jpg \(.*truncated.*images/c.jpg \(cannot identify"
    )
    with pytest.raises(StudyError, match=message):
        check_dataset(checked)


def test_check_without_decoding_reads_only_query_headers(checked):
    checked.images[0].write_text("no image, but no query either")
    check_dataset(checked, decode=False)
    checked.queries[0].image.write_text("no image")
    with pytest.raises(StudyError, match=r"queries/1.jpg"):
        check_dataset(checked, decode=False)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((1, 2, 80, 40), "leaves queries/1.jpg of 64 x 48 pixels"),
        ((1, -9, 30, 40), "leaves queries/1.jpg"),
        ((64, 2, 66, 40), "leaves queries/1.jpg"),
        ((30, 2, 30, 40), "is empty"),
        ((30, 40, 1, 2), "is empty"),
        ((1, 2, float("nan"), 40), "is empty"),
        ((0, 0, 65, 49), None),
    ],
)
def test_check_boxes(checked, box, message):
    query = replace(checked.queries[0], box=box)
    dataset = replace(checked, queries=(query,))
    if message is None:
        check_dataset(dataset)
    else:
        with pytest.raises(StudyError, match=f"query q1: the box .* {message}"):
            check_dataset(dataset)


def test_check_boxes_of_turned_photographs(checked):
    picture(checked.queries[0].image, orientation=6)
    upright = replace(checked.queries[0], box=(0, 0, 48, 64))
    dataset = replace(checked, queries=(upright,), exif_orientation=True)
    check_dataset(dataset)
    with pytest.raises(StudyError, match=r"of 64 x 48 pixels"):
        check_dataset(replace(dataset, exif_orientation=False))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positives": (3,)}, "positives holds the index 3, expected 0 to 2"),
        ({"junk": (-1,)}, "junk holds the index -1"),
        ({"positives": ()}, "has no positive"),
        ({"positives": (1, 0)}, "not sorted and unique"),
        ({"junk": (0,)}, "image 0 is both positive and junk"),
    ],
)
def test_check_indices(checked, fields, message):
    query = replace(checked.queries[0], **fields)
    with pytest.raises(StudyError, match=message):
        check_dataset(replace(checked, queries=(query,)))


def test_check_counts(checked):
    with pytest.raises(StudyError, match=r"found 3 database images .* expected 4"):
        check_dataset(checked, expected_images=4)
    with pytest.raises(StudyError, match=r"found 2 queries .* expected 5"):
        check_dataset(checked, expected_queries=5)
    with pytest.raises(StudyError, match=r"no database image"):
        check_dataset(replace(checked, images=()))
    with pytest.raises(StudyError, match=r"the query id q1 occurs twice"):
        check_dataset(replace(checked, queries=checked.queries[:1] * 2))
    with pytest.raises(StudyError, match=r"2 unit names for 3 images"):
        check_dataset(replace(checked, units=("a", "b")))


def test_check_mask_size(checked, tmp_path):
    mask = tmp_path / "mask.png"
    mask_image(mask, (1, 1, 5, 5), (32, 32))
    query = replace(checked.queries[0], mask=mask)
    with pytest.raises(StudyError, match=r"mask.png is not of the size of 1.jpg"):
        check_dataset(replace(checked, queries=(query,)))


# registry and helpers


def test_unknown_names_and_options(tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(tmp_path))
    with pytest.raises(StudyError, match=r"unknown dataset 'oxfrod5k': .*dvd-mini.*trecvid-ins"):
        load_dataset("oxfrod5k")
    with pytest.raises(StudyError, match=r"unknown dataset '../x'"):
        load_dataset("../x")
    with pytest.raises(StudyError, match=r"oxford5k: the folder .*oxford5k does not exist"):
        load_dataset("oxford5k")
    with pytest.raises(StudyError, match=r"unknown option 'parital': expected one of .*partial"):
        load_dataset("oxford5k", parital=True)
    assert {"mini-buildings", "mini-objects", "rparis6k-hard", "instre-mini"} <= {*dataset_names()}


def test_register_dataset(photographs, monkeypatch):
    monkeypatch.setattr(datasets, "REGISTRY", dict(datasets.REGISTRY))
    monkeypatch.setenv("BLCF_DATA", str(photographs.parent))
    register_dataset("mine", load_folder, folder="holiday")
    assert "mine" in dataset_names()
    assert len(load_dataset("mine").images) == 7
    with pytest.raises(StudyError, match=r"'mine' is registered already"):
        register_dataset("mine", load_folder)


def test_image_search_survives_links_in_a_circle(photographs):
    (photographs / "2024" / "up").symlink_to(photographs, target_is_directory=True)
    assert len(find_images(photographs)) == 7
    assert set(by_stem(find_images(photographs, skip=("2025",)), "x")) == set("abcdeq")


def test_some_names():
    assert some_names(["a", "b"]) == "a, b"
    assert some_names([str(i) for i in range(1_007)], 2) == "0, 1 and 1,005 more"


@pytest.mark.photos
@pytest.mark.parametrize(
    ("name", "images", "queries", "outside"),
    [("instre-mini", 1_200, 75, 6), ("monuments-mini", 360, 33, 0), ("dvd-mini", 240, 60, 60)],
)
def test_real_sets(shared_data, monkeypatch, name, images, queries, outside):
    monkeypatch.setenv("BLCF_DATA", str(shared_data))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = load_dataset(name)
    check_dataset(dataset, expected_images=images, expected_queries=queries)
    assert len(dataset.extra_images) == outside
    database = {path: i for i, path in enumerate(dataset.images)}
    assert all(q.junk == (database[q.image],) for q in dataset.queries if q.image in database)


def test_rendered_sets_live_in_the_store_by_recipe_seed_and_scale(tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_CACHE", str(tmp_path))
    tiny = load_dataset("mini-objects", scale=0.02)
    assert tiny.root.is_relative_to(tmp_path / "rendered")
    before = tiny.images[0].stat().st_mtime_ns
    again = load_dataset("mini-objects", scale=0.02)
    assert (again.root, again.images[0].stat().st_mtime_ns) == (tiny.root, before)
    assert load_dataset("mini-objects", seed=1, scale=0.02).root != tiny.root
    assert load_dataset("mini-objects", root=tmp_path / "here", scale=0.02).manifest == (
        tiny.manifest
    )
    with pytest.raises(StudyError, match="scale: expected a number, found 'x'"):
        load_dataset("mini-objects", scale="x")


def test_equal_file_names_in_two_folders_are_two_units(instre_root):
    dataset = load_dataset("instre", root=instre_root)
    assert [path.name for path in dataset.images] == ["001.jpg", "002.jpg", "001.jpg"]
    assert dataset.unit_numbers.tolist() == [0, 1, 2]
    assert [dataset.unit_of(image) for image in range(3)] == [0, 1, 2]
