"""Ground truth in MATLAB files, in the shapes in which people save it."""

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from blcf_utils.datasets.holidays import parse_holidays
from blcf_utils.datasets.instre import parse_instre
from blcf_utils.datasets.revisited import parse_revisited
from blcf_utils.ground.errors import StudyError

NAMES = ["s/001.jpg", "s/002.jpg", "s/010.jpg"]
ASKED = ["q/001.jpg", "q/002.jpg"]
TRUTH = [{"ok": [1, 3], "bbx": [1.0, 2, 30, 40]}, {"ok": [2], "bbx": [5.0, 6, 7, 8]}]


def cells(values):
    """Return values as a cell array."""
    array = np.empty((1, len(values)), object)
    array[0, :] = values
    return array


def structs(records):
    """Return dicts as an array of structs."""
    array = np.empty((1, len(records)), [(field, object) for field in records[0]])
    for i, record in enumerate(records):
        for field, value in record.items():
            array[0, i][field] = np.array(value)
    return array


def changed(first, **fields):
    """Return the truth with fields of its first or second query changed."""
    return [{**one, **fields} if i == first else one for i, one in enumerate(TRUTH)]


@pytest.fixture
def saved(tmp_path):
    """What writes a ground truth as INSTRE's is, with some variables changed."""

    def save(**variables):
        path = tmp_path / "gnd_instre.mat"
        whole = {"imlist": cells(NAMES), "qimlist": cells(ASKED), "gnd": structs(TRUTH)}
        savemat(path, whole | variables)
        return path

    return save


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"gnd": cells(TRUTH)},
        {"gnd": cells([structs([one]) for one in TRUTH])},
        {"gnd": structs(TRUTH).T},
        {"gnd": structs(changed(0, ok=np.array([[3.0], [1.0]])))},
        {"gnd": structs([{**one, "ok": cells(one["ok"])} for one in TRUTH])},
        {"imlist": np.array(NAMES), "qimlist": np.array(ASKED)},
        {"imlist": cells(NAMES).T, "qimlist": cells([cells([name]) for name in ASKED])},
    ],
    ids=["published", "cell of structs", "cell of arrays of one", "column", "doubles",
         "cell of indices", "matrix of characters", "nested cells"],
)  # fmt: skip
def test_every_shape_of_the_same_truth_is_read_alike(saved, variables):
    names, (first, second) = parse_instre(saved(**variables))
    assert names == tuple(NAMES)
    assert (first.image, second.image) == tuple(ASKED)
    assert (first.positives, second.positives) == (("s/001.jpg", "s/010.jpg"), ("s/002.jpg",))
    assert (first.box, second.box) == ((1, 2, 30, 40), (5, 6, 7, 8))


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"gnd": structs([{"ok": [1]}, {"ok": [2]}])}, "gnd, entry 1: .* with ok, bbx, found no b"),
        ({"gnd": cells([TRUTH[0], {"bbx": [1, 2, 3, 4]}])}, "gnd, entry 2: .*, found no ok"),
        ({"gnd": cells(["a", "b"])}, "gnd, entry 1: expected a struct .*, found no struct"),
        ({"gnd": np.array([[1.0, 2]])}, "gnd, entry 1: .* found no struct"),
        ({"gnd": structs(TRUTH[:1])}, "gnd: expected one struct for each of 2 queries, found 1"),
        ({"qimlist": cells(ASKED[:1])}, "gnd: expected one struct for each of 1 queries, found 2"),
        ({"imlist": cells([*NAMES[:2], ""])}, "imlist, entry 3: expected a name, found nothing"),
        ({"imlist": cells([*NAMES[:2], 7.0])}, r"imlist, entry 3: expected a name, found .*7"),
        ({"qimlist": np.zeros((1, 2))}, "qimlist, entry 1: expected a name"),
        ({"gnd": structs(changed(0, ok=[np.nan]))}, "an index: expected a number, found .*nan"),
        ({"gnd": structs(changed(1, ok=[1.5]))}, "index 1.5 is outside 1 to 3 or not a whole"),
        ({"gnd": structs(changed(1, ok=[0]))}, "index 0 is outside 1 to 3"),
        ({"gnd": structs(changed(1, ok=[4]))}, "index 4 is outside 1 to 3"),
        ({"gnd": structs(changed(1, ok=["x"]))}, "an index: expected a number, found .*x"),
        ({"gnd": structs(changed(0, bbx=[1, 2, np.inf, 4]))}, "a box: expected a number, .*inf"),
        ({"gnd": structs(changed(0, bbx=[1, 2]))}, "expected boxes of 4 numbers, found 2"),
    ],
)
def test_what_no_query_can_be_read_from_is_said_with_its_place(saved, variables, said):
    with pytest.raises(StudyError, match=rf"gnd_instre\.mat: {said}"):
        parse_instre(saved(**variables))


def test_the_revisited_and_holidays_truth_are_checked_alike(tmp_path):
    path, empty = tmp_path / "gnd.mat", np.zeros((0, 0))
    whole = {"imlist": cells(["a", "b"]), "qimlist": cells(["q"]), "qidx": np.array([[2.0]])}
    record = {"bbx": [1, 2, 3, 4], "easy": [1], "hard": empty, "junk": [2], "ok": [1]}
    savemat(path, whole | {"gnd": cells([record])})
    _, (labelled,) = parse_revisited(path)
    assert labelled.labels == {"easy": ("a",), "hard": (), "junk": ("b",)}
    _, (query,) = parse_holidays(path)
    assert (query.image, query.positives, query.junk) == ("b", ("a",), ("b",))
    for lost, parse in (("hard", parse_revisited), ("ok", parse_holidays)):
        savemat(path, whole | {"gnd": cells([{k: v for k, v in record.items() if k != lost}])})
        with pytest.raises(StudyError, match=rf"gnd, entry 1: .*, found no {lost}"):
            parse(path)
    savemat(path, whole | {"gnd": cells([record]), "qidx": np.array([[np.nan]])})
    with pytest.raises(StudyError, match=r"expected a number, found .*nan"):
        parse_holidays(path)


def test_a_file_of_version_7_3_is_named(tmp_path):
    path = tmp_path / "gnd_instre.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["imlist"] = [1]
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    path.write_bytes(head + path.read_bytes()[128:])
    with pytest.raises(StudyError, match=r"version 7\.3, expected an older one: save it with -v7"):
        parse_instre(path)
