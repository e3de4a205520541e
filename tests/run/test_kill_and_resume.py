"""A run killed at random and resumed ends with the bytes of one that was not, on tiny stand-ins."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from official import write_ground_truth

from blcf_utils.datasets.stand_ins.writing import write_stand_ins

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kill_and_resume.py"
PROFILE = """
    name: cut
    datasets: [oxford5k-standin, instre-standin]
    dataset_options: {oxford5k-standin: {partial: true}, instre-standin: {partial: true}}
    features:
      backbone: {name: efficientnet_lite0, layer: block11_expand, weights: embedded}
      longest_side: 64
    whitening: {dimensions: 16}
    codebook: {words: 20, iterations: 2}
    parameters: {03_codebook: {SIZES: [10]}}
"""


def test_a_killed_run_ends_with_the_same_bytes(tmp_path):
    truth = write_ground_truth(tmp_path / "truth")
    options = {"benchmarks": ["oxford5k", "instre"], "pictures": 3, "workers": 1}
    write_stand_ins(tmp_path / "data", truth, **options)
    profile = tmp_path / "cut.yaml"
    profile.write_text(textwrap.dedent(PROFILE), encoding="utf-8")
    command = [sys.executable, SCRIPT, "--profile", profile, "--notebook", "01", "--notebook", "03"]
    done = subprocess.run(
        [*map(str, command), "--kills", "1", "--folder", str(tmp_path)],
        env={**os.environ, "BLCF_DATA": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kill 1: after" in done.stdout
    assert " files of artefacts the same, 0 differ" in done.stdout
    assert "tables compared, 0 cells differ" in done.stdout
