"""The profiles in data/profiles: each is complete, and `paper` is ready up to the download."""

from __future__ import annotations

import pytest

from blcf_utils.config.profile import load_profile, profile_names
from blcf_utils.datasets import dataset_names, load_dataset
from blcf_utils.datasets.fetching.sources import dataset_sources
from blcf_utils.features.networks.backbones import BACKBONES, layer_names
from blcf_utils.features.networks.weight_files import published_source
from blcf_utils.ground.errors import StudyError
from blcf_utils.run.notebooks import find_notebooks


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
    assert profile.features.longest_side == 340
    assert profile.codebook.words == 25_000
    assert profile.encoding.interpolate == 2
    assert profile.whitening.dimensions == 512


@pytest.mark.parametrize("name", load_profile("paper").datasets)
def test_paper_says_how_to_get_what_it_lacks(name, tmp_path, monkeypatch):
    monkeypatch.setenv("BLCF_DATA", str(tmp_path))
    assert name in dataset_sources()
    with pytest.raises(StudyError, match="blcf data fetch"):
        load_dataset(name)
