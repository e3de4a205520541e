"""The doctor: what it says of machines, data, weights and room, and how right its counts are."""

import json
import platform
import shutil
from collections import Counter

import pytest
from typer.testing import CliRunner

from blcf_utils.cli import app
from blcf_utils.config.profile import (
    BackboneConfig,
    Profile,
    SiftConfig,
    WeightingConfig,
    load_profile,
)
from blcf_utils.features.networks import weight_files
from blcf_utils.ground.artefacts import Stage
from blcf_utils.pooling.compared.rows import row
from blcf_utils.run import hardware
from blcf_utils.run.doctor import machine, room, weights
from blcf_utils.run.doctor.datasets import RENDERED, USUAL, Counts, look_at_dataset
from blcf_utils.run.doctor.examine import examine
from blcf_utils.run.doctor.findings import Finding, as_json, as_text, exit_code
from blcf_utils.run.provenance import installed_version, requirements
from blcf_utils.study.study import Study
from blcf_utils.study.weightings import weighting_names

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


def test_what_teaches_the_compared_methods_is_looked_for_too(tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(tmp_path))
    found = by_topic(examine("paper-more", connects=lambda _: False))
    for name in ("holidays", "paris6k"):
        assert found[f"dataset {name}"].mend == f"blcf data fetch {name}"
    assert "ask its authors" in found["dataset flickrlogos32"].mend
    assert "dataset oxford5k" not in found


def test_packages_of_the_wrong_version_are_seen(monkeypatch):
    here = machine.check_packages()
    assert (here.state, platform.python_version() in here.says) == ("ok", True), here

    def other(version):
        versions = {one.name: installed_version(one.name) for one in requirements()}
        monkeypatch.setattr(machine, "installed_version", {**versions, "torch": version}.get)
        return machine.check_packages()

    found = other("not installed")
    assert (found.state, found.says) == ("problem", "not installed: torch")
    for version, state in {"2.13.0+cpu": "ok", "2.14": "warning", "2.9": "warning"}.items():
        assert (found := other(version)).state == state, version
    assert found.says.endswith("torch 2.9 (expected <2.14,>=2.11)")


def test_devices_and_cores():
    gpu = [("A GPU", 16 * GB)]
    assert machine.check_device("cuda", [], False).state == "problem"
    assert machine.check_device("auto", [], True).state == "warning"
    assert machine.check_device("auto", [], False).state == "ok"
    assert "A GPU (16.0GB), used" in machine.check_device("auto", gpu, True).says
    assert machine.check_processor(4, 4, {}).state == "ok"
    limited = machine.check_processor(4, 4, {"OMP_NUM_THREADS": "1"})
    assert (limited.state, limited.mend) == ("warning", "unset OMP_NUM_THREADS")


def test_a_disk_too_small_is_a_problem_unless_what_is_there_makes_up_for_it(tmp_path):
    needs = Counter(features=60 * GB, words=4 * GB)
    states = {
        (100 * GB, 0): "ok",
        (70 * GB, 0): "warning",
        (50 * GB, 20 * GB): "warning",
        (50 * GB, 0): "problem",
        (10 * GB, 20 * GB): "problem",
    }
    for (free, there), state in states.items():
        found = room.check_disk(needs, tmp_path, free, there)
        assert (found.state, free, there) == (state, free, there)
    assert "50.0GB free, the run keeps about 64.0GB: features 60.0GB, words 4.00GB" in (
        room.check_disk(needs, tmp_path, 50 * GB).says
    )


def test_memory_too_small_is_a_problem_and_memory_in_use_a_warning():
    needs = Counter({"k-means (codebook.words)": 7 * GB, "forward pass": GB})
    assert room.check_memory(needs, 32 * GB, 30 * GB).state == "ok"
    assert room.check_memory(needs, 32 * GB, 5 * GB).state == "warning"
    found = room.check_memory(needs, 6 * GB, 5 * GB)
    assert (found.state, "the k-means (codebook.words), about 7.00GB" in found.says) == (
        "problem",
        True,
    )


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path, monkeypatch):
    assert machine.check_writable(tmp_path / "new" / "cache", "cache", "BLCF_CACHE").state == "ok"

    def refuse(dir):
        raise PermissionError(dir)

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    found = machine.check_writable(tmp_path / "cache", "cache", "BLCF_CACHE")
    assert (found.state, "BLCF_CACHE" in found.mend) == ("problem", True)


def test_a_dataset_is_looked_at_without_decoding_it(toy_root, tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(tmp_path))
    profile = profile_of("toy")
    found, counts = look_at_dataset(profile, "toy")
    assert (found.state, found.mend) == ("problem", "set BLCF_DATA to the folder that holds toy")
    assert counts is None

    root = shutil.copytree(toy_root / "toy", tmp_path / "toy")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)  # headers only
    found, counts = look_at_dataset(profile, "toy")
    assert found.state == "ok"
    assert found.says == "18 images, 5 queries, 1 query image outside the database"
    # 18 images of 96 x 64 or 64 x 96 pixels and a query image of 120 x 90.
    assert counts == Counts("toy", {"toy": 19}, (97, 65))

    (root / "images" / "p1_1.jpg").write_bytes(b"")
    found, _ = look_at_dataset(profile, "toy")
    assert (found.state, "empty or no image: p1_1.jpg" in found.says) == ("problem", True)

    (root / "images" / "p1_1.jpg").unlink()
    found, _ = look_at_dataset(profile, "toy")
    assert (found.state, "1 of 19 images are missing" in found.says) == ("problem", True)
    lenient = profile_of("toy", dataset_options={"toy": {"partial": True}})
    found, _ = look_at_dataset(lenient, "toy")
    assert (found.state, "left out of database" in found.says) == ("warning", True)


def test_datasets_that_are_not_here_are_counted_as_published(tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(tmp_path))
    profile = load_profile("paper")
    for name, images in {"oxford5k": 5063, "paris6k": 6392, "instre": 27_293 + 1250}.items():
        found, counts = look_at_dataset(profile, name)
        assert (found.state, found.mend) == ("problem", f"blcf data fetch {name}")
        assert counts == Counts(name, {name: images}, USUAL)
    large = profile_of("oxford105k")
    parts = {"oxford5k": 5063, "oxc1_100k": 100_071}
    assert look_at_dataset(large, "oxford105k")[1].parts == parts
    revisited = profile_of("roxford5k-hard")
    found, _ = look_at_dataset(revisited, "roxford5k-hard")
    assert found.mend == "blcf data fetch roxford5k"


def test_a_rendered_collection_is_not_rendered_to_be_counted(store):
    found, counts = look_at_dataset(load_profile("smoke"), "mini-objects")
    assert (found.state, "18 queries, rendered when it is first needed" in found.says) == (
        "ok",
        True,
    )
    assert counts == Counts("mini-objects", {"mini-objects": 92}, RENDERED)
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
    vgg = BackboneConfig(weights="torchvision")
    found = weights.check_backbone(vgg, connects=lambda url: False)
    assert found.state == "problem"
    assert f"into {tmp_path}/hub/checkpoints by hand" in found.mend
    assert weights.check_backbone(vgg, connects=lambda url: True).state == "ok"
    auto = BackboneConfig()
    assert weights.check_auto(auto, lambda url: True) == []
    [replaced] = weights.check_auto(auto, lambda url: False)
    assert "download.pytorch.org does not answer" in replaced.says
    assert weight_files.EMBEDDED.name in replaced.says
    local = BackboneConfig(name="alexnet", layer="conv5", weights="local")
    assert "BLCF_WEIGHTS, which is not set" in weights.check_backbone(local).says
    mini = BackboneConfig(name="efficientnet_lite0", layer="block11_expand", weights="embedded")
    assert weights.check_backbone(mini).state == "ok"
    random = BackboneConfig(name="efficientnet_lite0", layer="block11_expand", weights="random")
    assert weights.check_backbone(random).state == "warning"
    assert weights.check_backbone(random, compared=True).state == "ok"
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

    def check(name, **settings):
        study = Study(load_profile(name, settings), store)

        def why_not(name, row):
            return study.open(name).weightings.unavailable_because(row)

        reasons = weighting_names(study.profile)
        return by_topic(weights.check_weightings(study.profile, reasons, why_not))

    found = check("paper")
    assert found["weighting"].state == "warning"
    assert "columns of t12 say 'not run'" in found["weighting"].says
    assert found["saliency"].mend == "blcf weights fetch salnet salgan sam-vgg sam-resnet"
    found = check("mini")
    assert "weighting" not in found
    assert found["saliency"].state == "warning"
    assert check("mini", **{"finetuning.saliency": "SalGin"})["weighting"].state == "problem"
    folders = {"weighting.folders": {"mine": str(tmp_path / "none")}, "datasets": ["toy"]}
    folders |= {"finetuning": {}, "comparison.learn_on": {}}
    found = check("mini", **folders)["maps mine"]
    assert (found.state, found.says.startswith("toy: ")) == ("warning", True)


def rows_of(*names):
    return [(row(name), why) for name, why in names]


def test_methods_that_lack_the_same_are_told_together_and_others_are_not_blamed():
    found = weights.check_compared(
        rows_of(
            ("rmac", ""),
            ("bow-1m", "needs one million"),
            ("mac-trained", "needs the weights of vgg16 trained for retrieval"),
            ("wan", "needs the weights of alexnet trained for retrieval"),
            ("cam", "needs the classifier"),
            ("rmac-resnet18", "resnet18 is the profile's own network; see the other rows"),
        )
    )
    assert [finding.state for finding in found] == ["ok", "warning", "warning"]
    assert found[0].says.startswith("1 of 6 methods")
    assert found[1].says.startswith("'not run' for mac-trained, wan: needs weights trained")
    assert found[2].says == "'not run' for cam: needs the classifier"


def test_bytes_on_the_disk_are_those_that_the_stages_write(toy, toy_stages, store):
    from blcf_utils.saliency.weight_maps import weight_maps
    from blcf_utils.saliency.weighting import gaussian
    from blcf_utils.search.sift.keypoints import extract_sift

    features = toy_stages.features
    profile = profile_of("toy", finetuning={})
    counts = Counts("toy", {"toy": len(toy.all_images)}, (96, 64))
    needs = room.disk_needs(profile, [counts], (), ("Gaussian",))
    maps = needs["feature maps of squeezenet1_1 fire3 (random) at 96 pixels"]
    assert maps == 19 * 2 * 128 * features.shapes[0].prod()
    # The query image outside the database is less oblong, and has more positions than others.
    assert maps <= (features.artefact / "features.h5").stat().st_size <= 1.15 * maps
    words = (toy_stages.maps.artefact / "words.npy").stat().st_size
    assert words == pytest.approx(needs["visual words"] * 2 / 5, rel=0.1)
    assert 0 < 3 * toy_stages.index.entries <= needs["visual words"] * 3 / 5
    flat = [weight_maps(gaussian(WeightingConfig()), features, f, store)._flat for f in (1, 2)]
    inverted = 18 * 4 * 4 * features.shapes[0].prod()
    assert needs["weightings"] == pytest.approx(sum(map.nbytes for map in flat) + inverted, rel=0.1)
    sift = extract_sift(toy, SiftConfig(keypoints=100, longest_side=96), store)
    assert 0 < int(sift.counts.sum()) * 144 <= needs["SIFT"]


def test_the_room_of_the_paper_profile_is_as_its_numbers_say():
    counts = [Counts("oxford5k", {"oxford5k": 5063}), Counts("paris6k", {"paris6k": 6392})]
    counts.append(Counts("instre", {"instre": 28_543}))
    paper, rows = load_profile("paper"), [row("razavian"), row("cam-online")]
    needs = room.disk_needs(paper, counts, rows, ("BMS", "Gaussian"))
    # 340 x 255 pixels are 21 x 15 positions at conv5_1, 1024 x 768 are 32 x 24 at pool5.
    maps = "feature maps of vgg16 {} (auto) at {} pixels".format
    assert needs[maps("conv5_1", 340)] == 2 * 39_998 * 21 * 15 * 512
    assert needs[maps("pool5", 1024)] == 2 * 39_998 * 32 * 24 * 512
    assert needs["saliency maps"] == pytest.approx(0.3 * 39_998 * 1024 * 768)
    vectors = 4 * 30 * 512 + 2 * 1000 * 512
    assert needs["vectors of compared methods"] == 39_998 * vectors
    assert needs["descriptors of k-means, while it learns"] == 3_000_000 * 512 * 4
    # Two chunks of 32,768 descriptors and three times 25,000 words; the others stay in their file.
    [kmeans] = room.memory_needs(paper).values()
    assert kmeans - room.LIBRARIES == (2 * 32_768 + 3 * 25_000) * 512 * 4
    # The first two layers of VGG-16 read and write 64 maps of the image's size.
    [forward] = room.forward_needs(paper, counts).values()
    assert forward - room.LIBRARIES == 4 * 16 * 2 * 64 * 1024 * 768


def test_distractors_are_counted_once_and_with_what_the_comparison_keeps():
    paper = load_profile("paper100k")
    counts = [Counts("oxford5k", {"oxford5k": 5063}), Counts("paris6k", {"paris6k": 6392})]
    larger = [
        Counts("oxford105k", {"oxford5k": 5063, "oxc1_100k": 100_071}),
        Counts("paris106k", {"paris6k": 6392, "oxc1_100k": 100_071}),
    ]
    rows = [row(i) for i in ("blcf", "blcf-salgan", "rmac", "crow", "cam-online")]

    def needs_of(counts):
        return room.disk_needs(paper, counts, rows, ("SalGAN", "BMS", "Gaussian"))

    more = needs_of([*larger, *counts])
    more.subtract(needs_of(counts))
    images, positions = 100_071, 21 * 15
    assert {what: amount for what, amount in more.items() if amount} == {
        "feature maps of vgg16 conv5_1 (auto) at 340 pixels": images * 2 * positions * 512,
        "feature maps of vgg16 pool5 (auto) at 1024 pixels": images * 2 * 32 * 24 * 512,
        "visual words": images * positions * 4 * 5,
        "weightings": images * positions * (5 * 4 + 4 * 4),
        "saliency maps": pytest.approx(images * 0.3 * 1024 * 768),  # of SalGAN
        "vectors of compared methods": images * 2 * 512 * 4,  # of R-MAC and CroW
    }


def test_what_is_in_the_cache_already_is_counted(store):
    for name in ("toy-a-b-123", "toys-a-b-123", "other-a-123"):
        (store.root / "features" / name).mkdir(parents=True)
        (store.root / "features" / name / "features.h5").write_bytes(b"x" * 100)
    assert machine.bytes_there(store.root, ["toy"]) == 100
    assert machine.bytes_there(store.root / "none", ["toy"]) == 0


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
    assert {"disk", "memory", "saliency", "comparison"} <= set(found)
    assert not list(store.root.glob("*/*"))


def test_teachers_are_looked_at_and_a_small_gpu_is_seen(toy_root, store, monkeypatch, tmp_path):
    monkeypatch.setenv("BLCF_DATA", str(toy_root))
    monkeypatch.setattr(hardware, "gpu_memory", lambda: [("A GPU", 1000)])
    path = tmp_path / "tiny.yaml"
    profile = profile_of("toy", learn_on={"toy": "teacher"})
    path.write_text(profile.model_dump_json(), encoding="utf-8")
    found = by_topic(examine(str(path), {"features.device": "auto"}))
    assert found["dataset teacher"].state == "problem"
    assert found["gpu memory"].state == "problem"
    assert "k-means" in found["memory"].says
    assert "images of teacher are not counted" in found["room"].says


def test_the_command_exits_with_one_where_something_will_fail(tmp_path, monkeypatch, store):
    monkeypatch.setenv("BLCF_DATA", str(tmp_path))
    monkeypatch.setenv("BLCF_WEIGHTS", str(tmp_path))
    done = CliRunner().invoke(app, ["doctor", "--profile", "photos", "--json"])
    assert done.exit_code == 1
    found = {one["topic"]: one for one in json.loads(done.stdout)}
    assert found["dataset instre-mini"]["state"] == "problem"
    assert found["weights"]["state"] == "problem"
    unknown = CliRunner().invoke(app, ["doctor", "--profile", "none"])
    assert unknown.exit_code == 2


def test_another_network_pools_its_own_layer_at_full_resolution(store):
    settings = {"features.backbone.weights": "random"}
    study = Study(load_profile("paper", settings), store)
    assert study.profile.at_full_resolution().features.backbone.layer == "pool5"
    mini = {
        "features.backbone": BackboneConfig(
            name="efficientnet_lite0", layer="block11_expand", weights="embedded"
        )
    }
    assert (
        study.profile.changed(mini).at_full_resolution().features.backbone.layer == "block11_expand"
    )


def test_an_artefact_is_found_only_when_it_is_finished(store):
    document = {"version": 1}
    assert store.find(Stage("stage"), "label", document) is None
    made = store.get_or_make(Stage("stage"), "label", document, lambda folder: None)
    assert store.find(Stage("stage"), "label", document) == made.folder
    assert store.find(Stage("stage"), "label", {"version": 2}) is None
