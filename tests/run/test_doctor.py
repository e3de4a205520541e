"""The doctor: what it says of machines, data, weights and room, and how right it predicts."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from blcf_utils.cli import app
from blcf_utils.config.profile import BackboneConfig, Profile, load_profile
from blcf_utils.pooling.compared.rows import row
from blcf_utils.run.doctor import machine, room, weights
from blcf_utils.run.doctor.datasets import USUAL, Seen, look_at_dataset
from blcf_utils.run.doctor.examine import _shapes, examine
from blcf_utils.run.doctor.findings import Finding, as_json, as_text, bytes_text, exit_code
from blcf_utils.run.doctor.needs import STORED, STREAMED, Need, Workload
from blcf_utils.study.study import Study

GB = 10**9


def by_topic(findings):
    return {finding.topic: finding for finding in findings}


def profile_of(*datasets, **settings):
    network = {"name": "squeezenet1_1", "layer": "fire3", "weights": "random"}
    values = {
        "name": "tiny",
        "datasets": datasets,
        "features": {"backbone": network, "longest_side": 96, "batch_size": 4, "device": "cpu"},
        "whitening": {"dimensions": 64},
        "codebook": {"words": 50, "iterations": 5},
        "sift": {"words": 50, "keypoints": 100, "longest_side": 96},
        **settings,
    }
    return Profile.model_validate(values)


def test_findings_are_told_in_lines_and_decide_the_exit_code():
    findings = [
        Finding("disk", "ok", "plenty"),
        Finding("dataset toy", "problem", "is not here", "blcf data fetch toy"),
        Finding("gpu", "warning", "none"),
    ]
    text = as_text(findings, "mini").splitlines()
    assert text[0].split() == ["ok", "disk", "plenty"]
    assert text[2].split(maxsplit=1) == ["->", "blcf data fetch toy"]
    assert text[-1] == "1 problem stops blcf run --profile mini; 1 warning"
    assert as_text(findings[:1], "mini").endswith("blcf run --profile mini can start; no warnings")
    assert (exit_code(findings), exit_code(findings[::2])) == (1, 0)
    assert json.loads(as_json(findings))[1]["mend"] == "blcf data fetch toy"


def test_python_and_packages_of_the_wrong_version_are_seen():
    assert machine.check_python((3, 12, 1)).state == "ok"
    assert machine.check_python((3, 10, 9)).state == "problem"
    here = machine.check_packages()
    assert here.state == "ok", here
    found = machine.check_packages({})
    assert found.state == "problem"
    assert "torch, torchvision, numpy" in found.says
    versions = {name: machine._installed(name) for name in found.says[15:].split(", ")}
    assert machine.check_packages(versions).state == "ok"
    untested = machine.check_packages({**versions, "torch": "2.99.0"})
    assert (untested.state, "torch 2.99.0 (expected >=2.11,<2.14)" in untested.says) == (
        "warning",
        True,
    )


@pytest.mark.parametrize(
    ("version", "limits", "within"),
    [
        ("2.13.0+cpu", ">=2.11,<2.14", True),
        ("2.14", ">=2.11,<2.14", False),
        ("2.9", ">=2.11,<2.14", False),
        ("0.5.8", ">=0.5.8,<0.6", True),
        ("3", "<3", False),
    ],
)
def test_versions_are_compared_by_number(version, limits, within):
    assert machine._within(version, limits) is within


def test_devices_and_cores():
    gpu = [("A GPU", 16 * GB)]
    assert machine.check_device("cuda", [], False).state == "problem"
    assert machine.check_device("auto", [], True).state == "warning"
    assert machine.check_device("auto", [], False).state == "ok"
    assert "A GPU (16 GB), used" in machine.check_device("auto", gpu, True).says
    assert machine.check_processor(4, 4, {}).state == "ok"
    limited = machine.check_processor(4, 4, {"OMP_NUM_THREADS": "1"})
    assert (limited.state, limited.mend) == ("warning", "unset OMP_NUM_THREADS")


def test_a_disk_too_small_is_a_problem_unless_what_is_there_makes_up_for_it(tmp_path):
    needs = [Need("features", 60 * GB), Need("words", 4 * GB)]
    states = {
        (100 * GB, 0): "ok",
        (66 * GB, 0): "warning",
        (50 * GB, 20 * GB): "warning",
        (50 * GB, 0): "problem",
        (10 * GB, 20 * GB): "problem",
    }
    for (free, there), state in states.items():
        found = room.check_disk(needs, tmp_path, free, there)
        assert (found.state, free, there) == (state, free, there)
    assert "50 GB free, predicted 64 GB: features 60 GB, words 4 GB" in (
        room.check_disk(needs, tmp_path, 50 * GB).says
    )


def test_memory_too_small_is_a_problem_and_memory_in_use_a_warning():
    needs = [Need("k-means of 3,000,000 descriptors", 7 * GB), Need("forward pass", GB)]
    assert room.check_memory(needs, 32 * GB, 30 * GB).state == "ok"
    assert room.check_memory(needs, 32 * GB, 5 * GB).state == "warning"
    found = room.check_memory(needs, 6 * GB, 5 * GB)
    assert (found.state, found.mend) == ("problem", "lower codebook.max_descriptors")
    assert room.check_gpu_memory(20 * GB, 16 * GB).state == "problem"


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path, monkeypatch):
    assert room.check_writable(tmp_path / "new" / "cache", "cache").state == "ok"

    def refuse(dir):
        raise PermissionError(dir)

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    found = room.check_writable(tmp_path / "cache", "cache")
    assert (found.state, "BLCF_CACHE" in found.mend) == ("problem", True)


def copy_of_toy(toy_root, folder):
    import shutil

    shutil.copytree(toy_root / "toy", folder / "toy")
    return folder / "toy"


def test_a_dataset_is_weighed_without_decoding_it(toy_root, tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(tmp_path))
    profile = profile_of("toy")
    found, seen = look_at_dataset(profile, "toy")
    assert (found.state, found.mend) == ("problem", "set BLCF_DATA to the folder that holds toy")
    assert seen is None

    root = copy_of_toy(toy_root, tmp_path)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)  # headers only
    found, seen = look_at_dataset(profile, "toy")
    assert found.state == "ok"
    assert found.says == "18 images, 5 queries, 1 query image outside the database"
    assert (seen.database, seen.outside, seen.query_images, len(seen.sizes)) == (18, 1, 5, 19)

    (root / "stand-in.json").write_text("{}")
    found, _ = look_at_dataset(profile, "toy")
    assert (found.state, "stand-in pictures" in found.says) == ("warning", True)

    (root / "images" / "p1_1.jpg").write_bytes(b"")
    found, _ = look_at_dataset(profile, "toy")
    assert (found.state, "empty or no image: p1_1.jpg" in found.says) == ("problem", True)

    (root / "images" / "p1_1.jpg").unlink()
    found, _ = look_at_dataset(profile, "toy")
    assert (found.state, "1 of 19 images are missing" in found.says) == ("problem", True)
    lenient = profile_of("toy", dataset_options={"toy": {"partial": True}})
    found, _ = look_at_dataset(lenient, "toy")
    assert (found.state, "left out of database" in found.says) == ("warning", True)


def test_nobody_is_told_to_fetch_photographs_among_stand_ins(tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(tmp_path))
    (tmp_path / "oxford5k").mkdir()
    (tmp_path / "oxford5k" / "stand-in.json").write_text("{}", encoding="utf-8")
    found, _ = look_at_dataset(load_profile("paper"), "paris6k")
    assert found.state == "problem"
    assert found.mend.startswith(f"blcf rehearse write {tmp_path}")


def test_datasets_that_are_not_here_are_counted_as_published(tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(tmp_path))
    profile = load_profile("paper")
    for name, counts in {
        "oxford5k": (5063, 0, 55),
        "paris6k": (6392, 0, 55),
        "instre": (27_293, 1250, 1250),
    }.items():
        found, seen = look_at_dataset(profile, name)
        assert (found.state, found.mend) == ("problem", f"blcf data fetch {name}")
        assert (seen.database, seen.outside, seen.query_images) == counts
    large = profile_of("oxford105k")
    assert look_at_dataset(large, "oxford105k")[1].database == 5063 + 100_071


def test_a_rendered_collection_is_not_rendered_to_be_counted(store):
    found, seen = look_at_dataset(load_profile("smoke"), "mini-objects")
    assert (found.state, "rendered when it is first needed" in found.says) == ("ok", True)
    assert (seen.images, seen.query_images) == (111, 21)
    assert not list(store.root.glob("rendered/*"))


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_planned_counts_are_those_of_the_recipe(scale):
    from blcf_utils.datasets.embedded import planned_counts
    from blcf_utils.datasets.rendering.benchmark import BENCHMARKS, _plan

    for name, recipe in BENCHMARKS.items():
        tasks, names = _plan(recipe, name, 0, scale)
        queries = recipe.queries * sum(task.instance is not None for task in tasks)
        assert planned_counts(name, scale) == (len(names), queries)


def test_weights_that_cannot_come_are_a_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("BLCF_WEIGHTS", raising=False)
    vgg = BackboneConfig()
    found = weights.check_backbone(vgg, connects=lambda url: False)
    assert found.state == "problem"
    assert f"into {tmp_path}/hub/checkpoints by hand" in found.mend
    assert weights.check_backbone(vgg, connects=lambda url: True).state == "ok"
    local = BackboneConfig(name="alexnet", layer="conv5", weights="local")
    assert "BLCF_WEIGHTS, which is not set" in weights.check_backbone(local).says
    mini = BackboneConfig(name="vgg-mini", weights="embedded")
    assert weights.check_backbone(mini).state == "ok"
    random = BackboneConfig(name="vgg-mini", weights="random")
    assert weights.check_backbone(random).state == "warning"
    bad = tmp_path / "alexnet.pth"
    bad.write_bytes(b"no weights")
    found = weights.check_backbone(local.model_copy(update={"weights": str(bad)}))
    assert (found.state, "expected a state dict" in found.says) == ("problem", True)


def test_a_host_that_takes_no_connections_is_not_reachable():
    assert not weights.reachable("http://127.0.0.1:9/file")


def test_saliency_models_without_weights_are_told_with_what_goes_empty(
    store, tmp_path, monkeypatch
):
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path))
    found = by_topic(weights.check_saliency(Study(load_profile("paper"), store)))
    assert found["weighting"].state == "warning"
    assert "columns of t12 say 'not run'" in found["weighting"].says
    assert found["saliency"].mend == "blcf weights fetch salnet salgan sam-vgg sam-resnet"
    found = by_topic(weights.check_saliency(Study(load_profile("mini"), store)))
    assert "weighting" not in found
    assert found["saliency"].state == "warning"


def rows_of(*names):
    from blcf_utils.pooling.compared.rows import row

    return [(row(name), why) for name, why in names]


def test_methods_that_lack_the_same_are_told_together_and_others_are_not_blamed():
    found = weights.check_compared(
        rows_of(
            ("rmac", ""),
            ("bow-1m", "needs one million"),
            ("mac-trained", "needs the weights of vgg16 trained for retrieval"),
            ("wan", "needs the weights of alexnet trained for retrieval"),
            ("cam", "needs the classifier"),
            ("rmac-vgg-mini", "vgg-mini is the profile's own network; see the other rows"),
        )
    )
    assert [finding.state for finding in found] == ["ok", "warning", "warning"]
    assert found[0].says.startswith("1 of 6 methods")
    assert found[1].says.startswith("'not run' for mac-trained, wan: needs weights trained")
    assert found[2].says == "'not run' for cam: needs the classifier"


def workload_of(profile, seen, **options):
    values = {"rows": (), "weightings": (), "models": 0, **options}
    return Workload(profile, seen, shapes=_shapes, **values)


def test_predicted_bytes_are_those_that_the_stages_write(toy, toy_stages, tiny_network):
    """Features, assignment maps and words to the byte; the inverted file from above."""
    sizes = tuple(map(tuple, toy_stages.features.sizes.tolist()))
    seen = Seen("toy", len(toy.images), len(toy.extra_images), 5, sizes)
    profile = profile_of("toy", finetuning={})
    work = workload_of(profile, (seen,))
    needs = {need.what: need.amount for need in work.disk()}
    values = int(toy_stages.features.shapes.prod(axis=1).sum()) * toy_stages.features.channels
    assert needs["features of the profile"] == pytest.approx(2 * values)
    file = (toy_stages.features.artefact / "features.h5").stat().st_size
    assert needs["features of the profile"] <= file <= 1.1 * needs["features of the profile"]
    views = 3 * 5 * 2 * values / len(toy.all_images) * 4  # of the 5 query images, cells by 2 x 2
    maps = toy_stages.maps.artefact / "words.npy"
    held = needs["assignment maps"] - views / toy_stages.features.channels
    assert held == pytest.approx(maps.stat().st_size - 128)
    assert needs["words"] >= toy_stages.codebook.centroids.nbytes
    assert needs["inverted files"] >= 3 * toy_stages.index.entries


def test_predicted_bytes_of_sift_saliency_and_weights(toy, toy_stages, store):
    from blcf_utils.config.profile import SiftConfig, WeightingConfig
    from blcf_utils.saliency.weight_maps import weight_maps
    from blcf_utils.saliency.weighting import gaussian
    from blcf_utils.search.sift.keypoints import extract_sift

    sizes = tuple(map(tuple, toy_stages.features.sizes.tolist()))[:18]
    seen = Seen("toy", 18, 1, 5, sizes)
    profile = profile_of("toy")
    needs = {
        need.what: need.amount
        for need in workload_of(profile, (seen,), weightings=("Gaussian",)).disk()
    }
    written = 0
    for factor in (1, 2):
        made = weight_maps(gaussian(WeightingConfig()), toy_stages.features, factor, store)
        written += made._flat.nbytes
    assert needs["weights"] == pytest.approx(written)
    sift = extract_sift(toy, SiftConfig(keypoints=100, longest_side=96), store)
    assert int(sift.counts.sum()) * 144 <= needs["SIFT"]


def test_the_paper_profile_is_predicted_as_its_numbers_say():
    seen = (Seen("oxford5k", 5063, 0, 55), Seen("paris6k", 6392, 0, 55))
    seen += (Seen("instre", 27_293, 1250, 1250),)
    assert seen[0].sizes == (USUAL,)
    work = workload_of(load_profile("paper"), seen)
    needs = {need.what: need.amount for need in work.disk()}
    # 340 x 255 pixels are 21 x 15 cells at conv5_1, 1024 x 768 are 32 x 24 at pool5.
    assert needs["features of the profile"] == 2 * 39_998 * 21 * 15 * 512
    assert needs["features at full resolution"] == 2 * 39_998 * 32 * 24 * 512
    memory = {need.what: need.amount for need in work.memory()}
    # 3,000,000 descriptors are asked for, and INSTRE's images have more than that.
    assert memory["k-means of 25,000 words"] < 1e9  # descriptors stay in their file
    # The first two layers of VGG-16 read and write 64 maps of the image's size.
    assert work.forward() == 4 * 16 * 2 * 64 * 340 * 255
    seconds = {need.what: need.amount for need in work.seconds(1.0, 1e11)}
    assert seconds["network, of the profile"] == pytest.approx(39_998 * 0.340 * 0.255)
    operations = 2 * 25_000 * 512 * 39_998 * 4 * 21 * 15
    assert seconds["assignment to words"] == pytest.approx(operations / 1e11)


def test_distractors_are_predicted_as_the_comparison_keeps_them():
    paper, names = load_profile("paper100k"), ("oxford5k", "paris6k", "instre")
    seen = (Seen("oxford5k", 5063, 0, 55), Seen("paris6k", 6392, 0, 55))
    compared = tuple(
        Seen(name, own + 100_071, 0, 55, distractors=100_071)
        for name, own in (("oxford105k", 5063), ("paris106k", 6392))
    )
    assert paper.datasets == names
    rows = tuple(row(i) for i in ("blcf", "blcf-salgan", "rmac", "crow", "cam-online"))

    def needs_of(kept):
        changed = load_profile("paper100k", {"distractors.features": kept})
        with_them = workload_of(changed, seen, rows=rows, compared=compared)
        without = workload_of(changed, seen, rows=rows)
        found = {need.what: need.amount for need in with_them.disk()}
        for need in without.disk():
            if not need.what.startswith("vectors"):
                assert found.pop(need.what) == need.amount
        vectors = {need.what: need.amount for need in without.disk()}["vectors of compared methods"]
        found["vectors"] = found.pop("vectors of compared methods") - vectors
        return found, {need.what: need.amount for need in with_them.seconds(1.0, 1e11)}

    found, seconds = needs_of("streamed")
    images, cells = 2 * 100_071 + 5063 + 6392, 4 * 21 * 15
    assert found["vectors"] == 4 * images * 512 * 2  # R-MAC and CroW; CAM is not among them
    weights, files = 4 * images * cells, (3 + 4) * images * cells
    told = "words, weights and inverted files among distractors"
    assert found[told] == 2 * 2 * 100_071 * cells + weights + files
    # SalGAN's maps, once for both.
    assert found["saliency maps of distractors"] == pytest.approx(0.3 * 100_071 * 1024 * 768)
    assert set(found) == {"vectors", told, "saliency maps of distractors"}
    once = 100_071 * (0.340 * 0.255 + 2 * 1.024 * 0.768)
    assert seconds[STREAMED] == pytest.approx(2 * once)
    told = room.tell_time([Need(STREAMED, 1e6)])
    assert "distractors.features: stored" in told.mend
    assert "distractors" not in room.tell_time([Need("network", 1e6)]).mend
    found, seconds = needs_of("stored")
    maps = 21 * 15 + 32 * 24  # those of pool5 serve both methods
    assert found["features of distractors"] == 2 * 100_071 * 512 * maps
    once = 100_071 * (0.340 * 0.255 + 1.024 * 0.768)
    assert seconds[STORED] == pytest.approx(once)
    # A dataset with distractors among the profile's own stores no maps of them either.
    own = load_profile("paper100k", {"datasets": ["oxford105k"]})
    kept = {need.what: need.amount for need in workload_of(own, compared[:1]).disk()}
    assert kept["features of the profile"] == 2 * 5063 * 21 * 15 * 512


def test_what_is_in_the_cache_already_is_counted(store):
    for name in ("toy-a-b-123", "toys-a-b-123", "other-a-123"):
        (store.root / "features" / name).mkdir(parents=True)
        (store.root / "features" / name / "features.h5").write_bytes(b"x" * 100)
    assert room.bytes_there(store.root, ["toy"]) == 100
    assert room.bytes_there(store.root / "none", ["toy"]) == 0


def test_a_profile_that_can_run_is_examined_without_computing_anything(
    toy_root, store, monkeypatch, tmp_path
):
    monkeypatch.setenv("BLCF_DATA", str(toy_root))
    monkeypatch.setenv("BLCF_RESULTS", str(tmp_path))
    path = tmp_path / "tiny.yaml"
    path.write_text(profile_of("toy").model_dump_json(), encoding="utf-8")  # JSON is YAML
    findings = examine(str(path), connects=lambda url: False)
    assert exit_code(findings) == 0, as_text(findings, "tiny")
    found = by_topic(findings)
    assert {"disk", "memory", "time", "saliency", "comparison"} <= set(found)
    assert found["time"].says.startswith("coarse estimate")
    assert not list(store.root.glob("*/*"))


def test_the_command_exits_with_one_where_something_will_fail(tmp_path, monkeypatch, store):
    monkeypatch.setenv("BLCF_DATA", str(tmp_path))
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path))
    done = CliRunner().invoke(app, ["doctor", "--profile", "photos", "--json", "--no-time"])
    assert done.exit_code == 1
    found = {one["topic"]: one for one in json.loads(done.stdout)}
    assert found["dataset instre-mini"]["state"] == "problem"
    assert found["weights"]["state"] == "problem"
    unknown = CliRunner().invoke(app, ["doctor", "--profile", "none"])
    assert unknown.exit_code == 2


def test_numbers_of_bytes_are_told_in_three_digits():
    assert [bytes_text(n) for n in (512, 1.5e6, 12.34e9, 2e12)] == [
        "1 kB",
        "1.5 MB",
        "12.3 GB",
        "2 TB",
    ]


def test_another_network_pools_its_own_layer_at_full_resolution(store):
    settings = {"features.backbone.weights": "random"}
    study = Study(load_profile("paper", settings), store)
    assert study.at_full_resolution().profile.features.backbone.layer == "pool5"
    mini = study.with_backbone(BackboneConfig(name="vgg-mini", weights="embedded"))
    assert mini.at_full_resolution().profile.features.backbone.layer == "conv5_1"


def test_an_artefact_is_found_only_when_it_is_finished(store):
    document = {"version": 1}
    assert store.find("stage", "label", document) is None
    made = store.get_or_make("stage", "label", document, lambda folder: None)
    assert store.find("stage", "label", document) == made.folder
    assert store.find("stage", "label", {"version": 2}) is None


def test_measured_paces_are_positive():
    import torch

    cpu = torch.device("cpu")
    assert room.measure_products(cpu) > 1e8
    sleepy = SimpleNamespace(type="cpu")
    assert 0 < room._seconds_of(lambda: np.ones(1000).sum(), sleepy) < 0.1
