"""The explorer as a web page outside JupyterLab.

Voila serves it: it runs the cell that shows the panel in a kernel of the visitor's own and sends
nothing but the output, so the page and the notebook are one code. (Panel, Solara and Streamlit
would need the panel written again; Voila is kept by the Jupyter project, as ipywidgets is.)
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import webbrowser
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat

from blcf_utils.apps.explorer.subject import FolderSubject, StudySubject
from blcf_utils.apps.explorer.uploads import MAX_BYTES
from blcf_utils.apps.explorer.visitors import VisitorKernels
from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.paths import absolute, environment
from blcf_utils.study.study import open_study

TITLE = "Instance search"
HOST, PORT = "127.0.0.1", 8866
# Pages load from this server only. Voila's own template would also ask another machine for icons.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; connect-src 'self' data: blob:; frame-ancestors 'self'"
)
# What the knobs offer beside the profile's own layer and codebook and the next layer.
WORDS = (512,)
WEIGHTINGS = ("Gaussian", "L2-norm", "salgan-mini")
# Visitors at once, and what the kernel of each may have in memory of its own.
VISITORS, MEMORY_GB = 5, 4.0
# A kernel that was asked nothing for so long ends, although its page is still open. That of a page
# that has gone ends within half a minute (visitors.py).
IDLE_SECONDS = 1200


def page_of_folder(folder: Path | str) -> str:
    """Return the code of a page that searches an indexed folder.

    Raises:
        StudyError: it is not indexed.
    """
    FolderSubject(folder)  # fails before the server starts, not on the first visit
    where = str(absolute(folder))
    return f"""\
        from blcf_utils.apps.explorer.panel import explore_folder

        explore_folder({where!r})
        """


def page_of_dataset(
    profile: str, dataset: str = "", layers=(), words=WORDS, weightings=WEIGHTINGS
) -> str:
    """Return the code of a page that searches a dataset of a profile.

    Everything that the page can ask for is made now, where progress can be seen.

    Raises:
        StudyError: no such profile or dataset.
    """
    if profile.endswith((".yaml", ".yml")):
        profile = str(absolute(profile))  # a visitor's kernel has another working folder
    bench = open_study(profile).open(dataset)
    StudySubject(bench, layers, words, weightings).prepare()
    arguments = f"{tuple(layers)!r}, {tuple(words)!r}, {tuple(weightings)!r}"
    return f"""\
        import contextlib, io

        from blcf_utils.apps.explorer.panel import explore
        from blcf_utils.study.study import open_study

        with contextlib.redirect_stdout(io.StringIO()):
            panel = explore(open_study({profile!r}).open({bench.name!r}), {arguments})
        panel
        """


@contextmanager
def serving(
    code: str,
    host: str = HOST,
    port: int = PORT,
    log=None,
    *,
    base_url: str = "/",
    visitors: int = VISITORS,
    memory_gb: float = MEMORY_GB,
):
    """Serve a page for as long as the block lasts; yields (process, address) once it answers.

    Args:
        code: of the one cell, whose last expression is the panel.
        host: the address to listen on; 127.0.0.1 is reached from this machine only.
        port: 0 for any free one.
        log: where the server writes, as for ``subprocess``; this process' own output when None.
        base_url: the path that the page has, as where a proxy passes a part of its paths on.
        visitors: how many can be there at once; others are answered 503.
        memory_gb: what each visitor's kernel may allocate; beyond, its search fails and is said.

    Raises:
        StudyError: the port is taken, no such path, or the server does not start.
    """
    port, base_url = check_address(host, port), check_base_url(base_url)
    cells = [nbformat.v4.new_markdown_cell(f"# {TITLE}")]
    cells += [nbformat.v4.new_code_cell(_limit(memory_gb) + textwrap.dedent(code))]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    with tempfile.TemporaryDirectory(prefix="blcf-demo-") as folder:
        path = Path(folder) / "instance-search.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
        settings = _settings(host, port, base_url, visitors)
        (Path(folder) / "voila.json").write_text(json.dumps(settings), "utf-8")
        # Settings come from there alone: not from a file that happens to lie in the working folder.
        options = ("--Voila.config_file_paths", folder, "--Voila.log_level=ERROR", "--no-browser")
        process = subprocess.Popen(
            [sys.executable, "-m", "voila", str(path), *options],
            env=environment()
            | {
                "BLCF_PROGRESS": "off",
                "JUPYTER_PREFER_ENV_PATH": "1",
                # A home may be read-only, and a user's start-up files are no part of a page.
                "JUPYTER_DATA_DIR": folder,
                "IPYTHONDIR": str(Path(folder) / "ipython"),
            },
            stdout=log,
            stderr=log,
        )
        try:
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}{base_url}"
            wait_until_served(address, process)
            yield process, address
        finally:
            # Voila ends its kernels and itself. A process of a shell's background ignores SIGINT.
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def serve(
    code: str, host: str = HOST, port: int = PORT, browser: bool = True, **limits: Any
) -> int:
    """Serve a page until it is interrupted; returns the server's exit status.

    ``limits`` are ``base_url``, ``visitors`` and ``memory_gb`` of :func:`serving`.
    """
    try:
        with serving(code, host, port, **limits) as (process, address):
            print(f"{TITLE}: {address} (stop with Ctrl-C)", flush=True)
            if browser:
                webbrowser.open(address)
            return process.wait()
    except KeyboardInterrupt:
        return 0


def wait_until_served(address: str, process: subprocess.Popen, seconds: float = 120) -> None:
    """Return when the server answers.

    Raises:
        StudyError: it ended, or did not answer in time.
    """
    parts = urlsplit(address)
    # A server that listens on every address is reached on this machine's own.
    host = {"0.0.0.0": HOST, "::": "::1"}.get(parts.hostname, parts.hostname)
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        with suppress(OSError), socket.create_connection((host, parts.port), 1):
            return
        time.sleep(0.1)
    ended = "ended" if process.poll() is not None else f"did not answer in {seconds:.0f} s"
    raise StudyError(f"{address}: the server {ended}; what it wrote above may say why")


def check_address(host: str, port: int) -> int:
    """Return the port on which a server can listen: the one given, or any free one for 0.

    Raises:
        StudyError: an address that is not this machine's, or a port that is taken.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family) as probe:
            return probe.getsockname()[1]
    except OSError as error:
        reason = error.strerror.partition(" (")[0]
        raise StudyError(
            f"{host}:{port}: cannot listen there ({reason}); choose another --port or --host"
        ) from None


def check_base_url(path: str) -> str:
    """Return the path of a page with a slash at both ends.

    Raises:
        StudyError: it is no path of an address.
    """
    inner = path.strip("/")
    if not re.fullmatch(r"([\w.~-]+(/[\w.~-]+)*)?", inner, re.ASCII):
        raise StudyError(
            f"--base-url {path}: expected a path such as /search/, of letters, digits, . _ ~ and -"
        )
    return f"/{inner}/" if inner else "/"


def _limit(memory_gb: float) -> str:
    """Return the lines with which a kernel limits its own memory; files it maps do not count."""
    size = int(memory_gb * 2**30)
    return f"import resource\n\nresource.setrlimit(resource.RLIMIT_DATA, ({size}, {size}))\n"


def _settings(host: str, port: int, base_url: str, visitors: int) -> dict:
    """Return Voila's configuration."""
    tornado = {
        # A photograph travels in one message, which is 10 MiB at most by default.
        "websocket_max_message_size": 2 * MAX_BYTES,
        "headers": {"Content-Security-Policy": POLICY},
    }
    server = {"ip": host, "port": port, "port_retries": 0, "base_url": base_url}
    page = {
        "strip_sources": True,
        "show_tracebacks": False,
        "file_allowlist": [],
        "multi_kernel_manager_class": f"{VisitorKernels.__module__}.{VisitorKernels.__name__}",
    }
    kernels = {
        "visitors": visitors,
        "cull_idle_timeout": IDLE_SECONDS,
        "cull_interval": 60,
        "cull_connected": True,
    }
    return {
        "Voila": {**server, "tornado_settings": tornado},
        "VoilaConfiguration": page,
        "VisitorKernels": kernels,
    }
