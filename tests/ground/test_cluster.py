"""Maps on a Dask cluster: the same bytes as one process, whatever happens to the workers."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from blcf_utils.config.profile import BackboneConfig, EncodingConfig, FeatureConfig, SiftConfig
from blcf_utils.config.saliency import SaliencyConfig
from blcf_utils.datasets.images import UnreadableImage, read_image
from blcf_utils.features import extraction as features_module
from blcf_utils.features import forward as forward_module
from blcf_utils.features.extraction import extract_features
from blcf_utils.ground import cluster as cluster_module
from blcf_utils.ground import mapping as mapping_module
from blcf_utils.ground.artefacts import ArtefactStore
from blcf_utils.ground.cluster import connected, settings, use_scheduler, workers_for
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.mapping import mapped
from blcf_utils.saliency.maps import saliency_maps
from blcf_utils.saliency.models import load_model
from blcf_utils.search.sift.keypoints import extract_sift
from blcf_utils.words.assignment_maps import assignment_maps

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

MINI = BackboneConfig(name="efficientnet_lite0", layer="block11_expand", weights="embedded")
CONFIG = FeatureConfig(backbone=MINI, longest_side=96, batch_size=1, device="cpu")


@contextlib.contextmanager
def workers(number):
    """A Dask cluster of worker processes on this machine."""
    with (
        dask.config.set(settings(1)),
        distributed.LocalCluster(
            n_workers=number,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=":0",
            silence_logs=60,
        ) as started,
    ):
        yield started


@pytest.fixture(scope="module")
def local():
    with workers(2) as started:
        yield started


@pytest.fixture
def cluster(local):
    with use_scheduler(local.scheduler_address) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.fixture(scope="module")
def serial(toy, tmp_path_factory):
    """Features of ``toy`` by one process."""
    return extract_features(toy, CONFIG, ArtefactStore(tmp_path_factory.mktemp("serial")))


def contents(made):
    files = sorted(p for p in made.artefact.folder.iterdir() if p.name != "made.json")
    return {p.name: p.read_bytes() for p in files if p.name != "artefact.json"}


def square(shared, item):
    time.sleep(shared)
    return item * item


def test_maps_yield_every_item_once_in_order(cluster):
    for many in (1, 3, 50):
        assert list(mapped(square, 0.0, range(40), at_once=many)) == [(i, i * i) for i in range(40)]
    assert list(mapped(square, 0.0, [])) == []


def test_few_items_are_under_way_at_a_time(cluster):
    taken = []
    results = mapped(square, 0.0, (taken.append(i) or i for i in range(200)))
    next(results)
    assert len(taken) <= mapping_module._AHEAD * 2 + 1
    results.close()


def test_a_cluster_is_left_where_the_block_ends(local):
    assert connected() is None
    with use_scheduler(local.scheduler_address) as client:
        assert connected() is client
        with use_scheduler("off"):
            assert connected() is None
        with use_scheduler(local.scheduler_address):
            pass
        assert connected() is client
        assert client.status == "running"
        assert os.environ["BLCF_SCHEDULER"] == local.scheduler_address
    assert connected() is None
    assert client.status == "closed"


def test_stages_give_the_bytes_of_one_process(toy, toy_stages, tiny_network, cluster, tmp_path):
    model = load_model("salgan-mini", SaliencyConfig())
    learned = toy_stages.whitening, toy_stages.codebook, EncodingConfig()
    stages = {
        "features": lambda store: extract_features(toy, tiny_network, store),
        "assignment maps": lambda store: assignment_maps(toy_stages.features, *learned, store),
        "saliency maps": lambda store: saliency_maps(toy, model, store),
        "sift": lambda store: extract_sift(toy, SiftConfig(keypoints=40), store),
    }
    for name, stage in stages.items():
        with use_scheduler("off"):
            here = stage(ArtefactStore(tmp_path / "here"))
        there = stage(ArtefactStore(tmp_path / "there"))
        assert not there.artefact.reused
        assert contents(there) == contents(here), name


def when_three_are_stored(monkeypatch, act):
    """Act once three images of an extraction are stored; return the list of those stored."""
    original, stored = features_module._Extraction._store, []

    def acting(self, batch, found):
        original(self, batch, found)
        stored.extend(batch)
        if len(stored) == 3:
            act()

    monkeypatch.setattr(features_module._Extraction, "_store", acting)
    return stored


def test_killed_workers_lose_nothing(toy, serial, cluster, store, monkeypatch):
    def kill():  # both, and with them what the items share
        for pid in cluster.run(os.getpid).values():
            os.kill(pid, signal.SIGKILL)

    stored = when_three_are_stored(monkeypatch, kill)
    made = extract_features(toy, CONFIG, store)
    assert contents(made) == contents(serial)
    assert sorted(stored) == list(range(19))  # each once


@pytest.fixture
def machine(tmp_path):
    """A scheduler and, started by ``blcf worker``, its one worker; processes of their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    module = [sys.executable, "-m"]
    scheduler = [*module, "distributed.cli.dask_scheduler", "--port", str(port)]
    scheduler += ["--host", "127.0.0.1", "--no-dashboard"]
    program = [sys.executable, "-c", "from blcf_utils.cli import app; app()"]
    worker = [*program, "worker", address, "--workers", "1", "--threads", "1"]
    options = {"cwd": tmp_path, "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    options["env"] = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    started = [subprocess.Popen(command, **options) for command in (scheduler, worker)]
    try:
        yield SimpleNamespace(address=address, scheduler=started[0])
    finally:
        for process in started[::-1]:
            process.terminate()
        for process in started:
            process.wait(timeout=30)


def test_a_lost_scheduler_is_said_and_the_rest_done_without_it(
    toy, serial, machine, store, monkeypatch
):
    with monkeypatch.context() as patch:
        stored = when_three_are_stored(patch, machine.scheduler.kill)
        patch.setattr(cluster_module, "CONNECT_SECONDS", 30)
        with use_scheduler(machine.address) as client:
            client.wait_for_workers(1, timeout=60)
            assert client.run(os.getenv, "OMP_WAIT_POLICY").popitem()[1] == "passive"
            with pytest.raises(StudyError, match=r"scheduler tcp://127.*: the connection was lost"):
                extract_features(toy, CONFIG, store)
    assert 3 <= len(stored) < 19
    decoded, original = [], forward_module.read_image
    monkeypatch.setattr(
        forward_module,
        "read_image",
        lambda path, *a, **k: decoded.append(path) or original(path, *a, **k),
    )
    assert contents(extract_features(toy, CONFIG, store)) == contents(serial)
    assert len(decoded) == 19 - len(stored)


def test_an_unreadable_image_is_said_as_ever(toy, cluster, store, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    dataset = replace(toy, images=(*toy.images[:3], broken), queries=())
    model = load_model("salgan-mini", SaliencyConfig())
    for stage in (
        lambda: saliency_maps(dataset, model, store),
        lambda: extract_sift(dataset, SiftConfig(), store),
    ):
        with pytest.raises(UnreadableImage, match=r"broken\.jpg: expected an image that decodes"):
            stage()
    half = tmp_path / "half.jpg"
    half.write_bytes(toy.images[0].read_bytes()[:900])
    dataset = replace(dataset, images=(*toy.images[:3], half))
    with pytest.raises(UnreadableImage, match=r"half\.jpg: expected an image .*truncated"):
        extract_features(dataset, CONFIG, store)
    found = extract_features(dataset, CONFIG.model_copy(update={"on_corrupt": "skip"}), store)
    assert found.skipped == ("half.jpg",)


def hidden(shared, item):
    raise AssertionError("a file that is not there must not be looked for")


def test_a_file_that_a_worker_does_not_see_is_named(cluster, tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"1234")
    monkeypatch.setattr(mapping_module, "_sizes", lambda paths: dict.fromkeys(paths, 5))
    with pytest.raises(StudyError, match=r"a\.jpg: the worker on .* sees 4 bytes, expected 5"):
        list(mapped(hidden, None, [path], files=lambda item: [item]))
    with pytest.raises(StudyError, match=r"b\.jpg: the worker on .* does not see it; images and"):
        list(mapped(hidden, None, [tmp_path / "b.jpg"], files=lambda item: [item]))


def width(shared, path):
    return read_image(path).shape[1]


def test_a_file_that_is_nowhere_is_said_as_in_one_process(cluster, tmp_path):
    missing = tmp_path / "missing.jpg"
    for address in ("off", cluster.scheduler.address):
        with (
            use_scheduler(address),
            pytest.raises(UnreadableImage, match=r"missing\.jpg: .*no such file"),
        ):
            list(mapped(width, None, [missing], files=lambda path: [path]))


def test_other_software_is_refused(cluster, monkeypatch):
    other = {**mapping_module.software(), "numpy": "1.0"}
    monkeypatch.setattr(mapping_module, "software", lambda: other)
    with pytest.raises(StudyError, match=r"worker on .*: it has numpy .*, expected 1\.0"):
        list(mapped(square, 0.0, [1]))


def die(shared, item):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_kills_its_workers_ends_in_an_error(cluster, local, monkeypatch):
    monkeypatch.setattr(local.scheduler, "allowed_failures", 0)
    with pytest.raises(StudyError, match="several workers died one after another"):
        list(mapped(die, None, [1]))


def refuse_eleven(shared, item):
    if item == 11:
        raise StudyError("eleven is refused")
    return item


@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_what_was_computed_before_a_refusal_is_kept(local, where):
    found = []
    with (
        use_scheduler(local.scheduler_address if where == "cluster" else "off"),
        pytest.raises(StudyError, match="eleven is refused"),
    ):
        found.extend(item for item, _ in mapped(refuse_eleven, None, range(20), threads=2))
    assert found == list(range(11))


def divide(shared, item):
    return shared / item


def test_other_errors_stay_what_they_are(cluster):
    with pytest.raises(ZeroDivisionError):
        list(mapped(divide, 1, [0]))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x"])
def test_no_scheduler_is_said_within_seconds(monkeypatch, address):
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 1)
    monkeypatch.setenv("BLCF_SCHEDULER", address)
    started = time.monotonic()
    with pytest.raises(StudyError, match=f"scheduler {address}: no Dask scheduler answers"):
        connected()
    assert time.monotonic() - started < 10


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setenv("BLCF_SCHEDULER", "tcp://127.0.0.1:9")
    with pytest.raises(StudyError, match=r"pip install blcf-study\[cluster\]"):
        connected()


def test_a_cluster_without_workers_is_given_up(monkeypatch):
    monkeypatch.setattr(mapping_module, "PATIENCE_SECONDS", 1)
    with (
        workers(0) as empty,
        use_scheduler(empty.scheduler_address),
        pytest.raises(StudyError, match="it has had no worker for 1 s; start some with blcf wor"),
    ):
        list(mapped(square, 0.0, [1]))


def threads(shared, item):
    import torch
    from threadpoolctl import threadpool_info

    pools = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    return torch.get_num_threads(), pools, os.environ["OMP_WAIT_POLICY"]


def test_a_local_cluster_computes_with_the_threads_of_this_process(monkeypatch):
    import torch
    from threadpoolctl import threadpool_limits

    before, environ = torch.get_num_threads(), dict(os.environ)
    try:
        torch.set_num_threads(3)
        # One number for both: a BLAS that computes with OpenMP has no number of its own.
        with threadpool_limits(3, "blas"), use_scheduler("local:1") as client:
            assert len(client.nthreads()) == 1
            assert dict(os.environ, BLCF_SCHEDULER="") == {**environ, "BLCF_SCHEDULER": ""}
            assert os.environ["BLCF_SCHEDULER"].startswith("tcp://127.0.0.1")
            assert list(mapped(threads, None, [0])) == [(0, (3, {3}, "passive"))]
    finally:
        torch.set_num_threads(before)
    assert client.status == "closed"


def test_a_number_of_local_workers_must_be_one(monkeypatch):
    for address in ("local:", "local:0", "local:many"):
        monkeypatch.setenv("BLCF_SCHEDULER", address)
        with pytest.raises(StudyError, match=f"{address}: expected local, or local:N"):
            connected()


def test_workers_are_as_many_as_keep_the_cores_busy(monkeypatch):
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 2**40)
    assert workers_for(cores=2, threads=2) == 2
    assert workers_for(cores=2, threads=1) == 2
    assert workers_for(cores=64, threads=64) == 2
    assert workers_for(cores=64, threads=4) == 32
    assert workers_for(cores=1, threads=8) == 1
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 16 * 2**30)
    assert workers_for(cores=64, threads=1) == 10


def test_a_run_hands_the_scheduler_to_its_notebooks(local, monkeypatch):
    from typer.testing import CliRunner

    from blcf_utils.cli import app
    from blcf_utils.run import runner

    seen = []

    def run_study(*_, **__):  # kernels get this process' environment
        seen.append(os.environ.get("BLCF_SCHEDULER"))
        raise StudyError("enough")

    monkeypatch.setattr(runner, "run_study", run_study)
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 2)
    monkeypatch.delenv("BLCF_SCHEDULER", raising=False)
    for options in ([], ["--scheduler", local.scheduler_address], ["--scheduler", "local:1"]):
        assert "enough" in CliRunner().invoke(app, ["run", *options]).output
    assert seen[:2] == ["", local.scheduler_address]
    assert seen[2].startswith("tcp://127.0.0.1:")
    assert "BLCF_SCHEDULER" not in os.environ
    failed = CliRunner().invoke(app, ["run", "--scheduler", "tcp://127.0.0.1:9"])
    assert failed.exit_code == 2
    assert "no Dask scheduler answers there within 2 s" in failed.output
    assert len(seen) == 3
