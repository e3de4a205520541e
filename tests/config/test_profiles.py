"""The profiles in data/profiles: each is complete, and `paper` is ready up to the download."""

from __future__ import annotations

import pytest

from blcf_utils.config.profile import load_profile, profile_names
from blcf_utils.datasets import dataset_names, load_dataset
from blcf_utils.datasets.fetching.sources import dataset_sources
from blcf_utils.features.networks.backbones import BACKBONES, layer_names
from blcf_utils.features.networks.weight_files import published_source
from blcf_utils.ground.errors import StudyError
from blcf_utils.results.published import dataset_of, load_published
from blcf_utils.run.notebooks import find_notebooks
from blcf_utils.study.comparison import teacher_of


def test_the_profiles_of_the_design_exist():
    assert {"mini", "smoke", "photos", "paper"} <= set(profile_names())


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_names_only_what_exists(name):
    profile = load_profile(name)
    assert set(profile.all_datasets) <= set(dataset_names())
    assert set(profile.learn_on) <= set(profile.all_datasets)
    for backbone in (profile.features.backbone, *profile.compare_backbones):
        assert backbone.name in BACKBONES
        assert backbone.layer in layer_names(backbone.name)
    find_notebooks(profile.notebooks)
    for notebook, values in profile.parameters.items():
        find_notebooks([notebook])[0].check(values)


def test_paper_is_the_setting_of_the_thesis():
    profile = load_profile("paper")
    backbone = profile.features.backbone
    assert (backbone.name, backbone.layer, backbone.relu) == ("vgg16", "conv5_1", "post")
    assert published_source("vgg16").normalisation == "caffe"
    seen = profile.features
    assert (seen.longest_side, seen.resize, seen.precision) == (340, "plain", "float32")
    assert profile.codebook.words == 25_000
    assert profile.encoding.interpolate == 2
    # Tables t02 and t03 are of the ICMR 2016 paper, t09 to t13 of the saliency work.
    assert (profile.encoding.box, profile.weighting.box) == ("edges", "mask")
    assert profile.whitening.dimensions == 512


@pytest.mark.parametrize("profile", ["paper-more", "paper-trecvid"])
def test_the_other_benchmarks_of_the_thesis_run_in_the_setting_of_paper(profile):
    paper, other = load_profile("paper").document(), load_profile(profile).document()
    own = ["name", "description", "datasets", "comparison", "finetuning", "notebooks"]
    if profile == "paper-trecvid":  # 384x288, pool5 at 768x576
        assert other["features"].pop("longest_side") == 384
        assert other["sum_pooling"].pop("full_longest_side") == 768
        del paper["features"]["longest_side"], paper["sum_pooling"]["full_longest_side"]
    assert not [key for key in paper if key not in own and paper[key] != other[key]]
    # Whoever trains on nothing runs no notebook of training.
    assert not [name for name in load_profile(profile).notebooks if name.startswith("08")]
    assert {teacher_of(load_profile(profile), name) for name in other["datasets"]} == {"paris6k"}


def test_every_dataset_of_t01_and_t13_has_a_profile_of_the_paper_s_setting():
    names = ("paper", "paper100k", "paper-more", "paper-trecvid")
    run = {name for profile in names for name in load_profile(profile).all_datasets}
    wanted = set(load_published("t01_datasets")["row"]) | {
        dataset_of(column) for column in load_published("t13_state_of_the_art")["column"]
    }
    assert wanted - {"dim"} <= run


PAPERS = {
    name
    for profile in ("paper", "paper-more", "paper-trecvid")
    for name in load_profile(profile).datasets
}


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_paper_says_how_to_get_what_it_lacks(name, tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(tmp_path))
    source = dataset_sources()[name]
    with pytest.raises(StudyError, match="blcf data fetch"):
        load_dataset(name)
    assert ("blurred faces" in source.note) == (name in ("oxford5k", "paris6k"))
    photographs = [one for rule in source.unpack if rule.into == "jpg" for one in rule.archives]
    assert all("-v1" in archive for archive in photographs) or not source.note
