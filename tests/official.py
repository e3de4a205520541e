"""Ground truth in the official formats, of a few images, for stand-ins of the tests."""

import numpy as np
from scipy.io import savemat

LANDMARKS = {"oxford5k": ("all_souls", "keble"), "paris6k": ("paris_eiffel", "paris_louvre")}
PREFIX = {"oxford5k": "oxc1_", "paris6k": ""}
# A high box and a wide one: neither fits into the other's picture.
BOXES = ((30.0, 40.0, 700.0, 1000.0), (30.0, 40.0, 1000.0, 700.0))


def _cells(names):
    return np.array(names, dtype=object)


def _truth(queries):
    found = np.zeros(len(queries), dtype=[(key, object) for key in queries[0]])
    for number, query in enumerate(queries):
        for key, value in query.items():
            found[number][key] = np.array(value, float)
    return found


def write_ground_truth(folder):
    """Write text files of two landmarks for Oxford and Paris, and .mat files of all three."""
    for name, landmarks in LANDMARKS.items():
        (folder / name).mkdir(parents=True)
        names = []
        for landmark in landmarks:
            own = [f"{landmark}_{number:06d}" for number in range(12)]
            names += own
            for number in (1, 2):
                x1, y1, x2, y2 = BOXES[number - 1]
                query = folder / name / f"{landmark}_{number}"
                image = PREFIX[name] + own[number - 1]
                query.with_name(query.name + "_query.txt").write_text(
                    f"{image} {x1} {y1} {x2} {y2}\n"
                )
                for kind, members in (("good", own[:4]), ("ok", own[4:6]), ("junk", own[6:8])):
                    path = query.with_name(f"{query.name}_{kind}.txt")
                    path.write_text("\n".join(members) + "\n")
        queries = [
            {"bbx": BOXES[0], "easy": [1, 2], "hard": [3], "junk": [4]},
            {"bbx": BOXES[1], "easy": [5], "hard": [6, 7], "junk": []},
        ]
        content = {"imlist": _cells(names), "gnd": _truth(queries)}
        content["qimlist"] = _cells([f"{landmarks[0]}_009000", f"{landmarks[1]}_009001"])
        revisited = {"oxford5k": "gnd_roxford5k.mat", "paris6k": "gnd_rparis6k.mat"}[name]
        savemat(folder / revisited, content)
    images = [f"INSTRE-S1/{o:02d}_thing/{v:03d}.jpg" for o in (1, 2, 3) for v in range(1, 9)]
    asked = [f"INSTRE-M/{o:02d}/{v:03d}.jpg" for o in (1, 2, 3) for v in (1, 2)]
    truth = [
        {"bbx": BOXES[k % 2], "ok": [8 * (k // 2) + v for v in range(1, 9)]}
        for k in range(len(asked))
    ]
    savemat(
        folder / "gnd_instre.mat",
        {"imlist": _cells(images), "qimlist": _cells(asked), "gnd": _truth(truth)},
    )
    return folder
