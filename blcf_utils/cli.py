"""The command line, ``blcf``: run the study, look at it, check it, get its data.

Commands import what they need when they run, so that ``blcf --help`` answers at once.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from blcf_utils.ground.errors import StudyError
from blcf_utils.ground.names import printable
from blcf_utils.ground.paths import cache_dir

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


class _Group(TyperGroup):
    """Says what went wrong in one line; with --debug shows where it came from."""

    def parse_args(self, ctx, args):
        ctx.obj = list(args)  # what was typed, for a command that tells how to go on
        return super().parse_args(ctx, args)

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (typer.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            said, code = "interrupted; run the same command to go on", INTERRUPTED
        except Exception as error:
            # The command line's own have an exit code: --help, an unknown option.
            if ctx.params.get("debug") or hasattr(error, "exit_code"):
                raise
            said, code = _sentence(error)
        typer.echo(f"blcf: {printable(said)}", err=True)
        raise typer.Exit(code)


def _sentence(error: Exception) -> tuple[str, int]:
    """Return an error as a sentence, and the exit code."""
    if isinstance(error, StudyError):
        return str(error), BAD_INPUT
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; mend that and run again", BAD_INPUT
    told = " ".join(f"{type(error).__name__}: {error}".split())
    if "no locator available" in told:  # numba's, of a function whose machine code it would keep
        return "machine code cannot be kept; set NUMBA_CACHE_DIR to a writable folder", BAD_INPUT
    return f"a fault of the study ({told}); blcf --debug shows where", FAILED


app = typer.Typer(
    cls=_Group,
    help="A reproducible study of image instance search with visual words.",
    epilog="Exit codes: 0 done; 1 something failed, differs or is missing; 2 bad input, or a place "
    "that cannot be read or written; 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="List, download and check datasets.", no_args_is_help=True)
weights_app = typer.Typer(
    help="List and download the official weights of saliency models.", no_args_is_help=True
)
profile_app = typer.Typer(help="Look at profiles.", no_args_is_help=True)
standins_app = typer.Typer(
    help="Write datasets of a benchmark's size, to run the study without its photographs.",
    no_args_is_help=True,
)
export_app = typer.Typer(help="Take an index elsewhere.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(weights_app, name="weights")
app.add_typer(profile_app, name="profile")
app.add_typer(standins_app, name="standins")
app.add_typer(export_app, name="export")

ProfileOption = Annotated[
    str, typer.Option("--profile", "-p", help="A name in data/profiles, or a YAML file.")
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change the profile; repeatable."),
]
ResultsOption = Annotated[
    Path | None,
    typer.Option("--results", metavar="DIR", help="Where results go, instead of results/."),
]


@app.callback()
def main(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    """A reproducible study of image instance search with visual words."""
    # What an output's encoding lacks, such as a letter of a file's name, is written as its number.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # A package that this user may not write is no place for the machine code of its kernels.
    if not os.access(Path(__file__).parent, os.W_OK):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_dir() / "numba"))


@app.command()
def run(
    context: typer.Context,
    notebooks: Annotated[
        list[str] | None, typer.Argument(help="Numbers, names or paths; all when none is named.")
    ] = None,
    profile: ProfileOption = "mini",
    settings: SettingsOption = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", metavar="NAME=VALUE", help="Set a notebook parameter."),
    ] = None,
    results: ResultsOption = None,
    force: Annotated[bool, typer.Option("--force", help="Run what is up to date, too.")] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Go on after a notebook fails.")
    ] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no HTML report.")] = False,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Compute images on a Dask cluster: tcp://host:8786, or local (local:4) for "
            "processes of this machine; BLCF_SCHEDULER, if none.",
        ),
    ] = None,
) -> None:
    """Run notebooks, skipping those that are up to date, and write the report."""
    from blcf_utils.ground.cluster import use_scheduler
    from blcf_utils.run.runner import run_study

    with use_scheduler(scheduler):
        summary = run_study(
            profile,
            notebooks or (),
            settings=_pairs(settings, "--set"),
            parameters=_pairs(parameter, "--parameter"),
            results=results,
            force=force,
            keep_going=keep_going,
        )
    for failed in summary.notebooks:
        if failed.message:
            typer.echo(f"{failed.name} {failed.status}: {failed.message}", err=True)
    executed = (summary.results / "notebooks").glob("[!.]*.ipynb")
    if not no_report and any(not path.name.endswith(".failed.ipynb") for path in executed):
        from blcf_utils.run.report.site import write_report

        typer.echo(f"report: {_shown(write_report(summary.profile, results))}")
    if not summary.ok:
        again = shlex.join(["blcf", *(word for word in context.obj if word != "--force")])
        typer.echo(
            f"to go on where it stopped: {again} (finished notebooks and stages are kept)", err=True
        )
        raise typer.Exit(summary.exit_code)


@app.command()
def worker(
    scheduler: Annotated[str, typer.Argument(help="The scheduler's address, tcp://host:8786.")],
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes; those that keep the cores busy, if none. 1 a GPU."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads of each, as many as the study's own process has (OMP_NUM_THREADS "
            "there); as torch would take here, if none.",
        ),
    ] = None,
) -> None:
    """Start workers of a Dask cluster on this machine, set up for the study."""
    from blcf_utils.ground.cluster import run_workers

    run_workers(scheduler, workers, threads)


@app.command()
def status(
    profile: ProfileOption = "mini",
    settings: SettingsOption = None,
    results: ResultsOption = None,
) -> None:
    """Say which notebooks are up to date and why the others are not."""
    from blcf_utils.run.runner import read_status

    rows = read_status(profile, settings=_pairs(settings, "--set"), results=results)
    width = max(len(row.name) for row in rows)
    for row in rows:
        seconds = f"{row.seconds:8.1f} s" if row.seconds else " " * 10
        line = f"{row.name:{width}}  {row.status:11}  {seconds}  {row.message}"
        typer.echo(line.rstrip())


@app.command()
def stages(
    profile: ProfileOption = "mini",
    results: ResultsOption = None,
    slowest: Annotated[bool, typer.Option("--slowest", help="The slowest stage first.")] = False,
) -> None:
    """Show what every stage of a run took: time, memory, disk."""
    from blcf_utils.config.profile import load_profile
    from blcf_utils.results.shown import markdown
    from blcf_utils.run.stages import stages_table

    table = stages_table(load_profile(profile).name, results, slowest_first=slowest)
    typer.echo(markdown(table, index=False).rstrip())


@app.command()
def doctor(
    profile: ProfileOption = "mini",
    settings: SettingsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Check what a run needs, before hours are spent: machine, data, weights, disk and memory."""
    from blcf_utils.run.doctor.examine import examine
    from blcf_utils.run.doctor.findings import as_json as json_of
    from blcf_utils.run.doctor.findings import as_text, exit_code

    findings = examine(profile, _pairs(settings, "--set"))
    typer.echo(json_of(findings) if as_json else as_text(findings, profile))
    raise typer.Exit(exit_code(findings))


@app.command()
def verify(
    profile: ProfileOption = "mini",
    results: ResultsOption = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The reference's results folder; what git has committed, if none."
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Largest difference of a mAP; counts are exact.")
    ] = 0.01,
    every: Annotated[bool, typer.Option("--all", "-v", help="Tell every difference.")] = False,
) -> None:
    """Compare a run's tables with the reference run's, one line a table."""
    from blcf_utils.run.verify import verify as compare

    tables = compare(profile, results, against, tolerance=tolerance)
    for table in tables:
        typer.echo(str(table))
        for difference in table.differences if every else ():
            typer.echo(f"  {difference}")
    differing = sum(bool(table.differences) for table in tables)
    if differing:
        typer.echo(f"{differing} of {len(tables)} tables differ from the reference", err=True)
        raise typer.Exit(1)
    typer.echo(f"{profile}: the tables agree with the reference")


@app.command()
def report(profile: ProfileOption = "mini", results: ResultsOption = None) -> None:
    """Write the HTML report of what has been run."""
    from blcf_utils.config.profile import load_profile
    from blcf_utils.run.report.site import write_report

    typer.echo(_shown(write_report(load_profile(profile).name, results)))


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="The folder that holds the photographs.")],
    profile: Annotated[
        str | None,
        typer.Option("--profile", "-p", help="Whose backbone and settings; mini, if none."),
    ] = None,
    weighting: Annotated[
        list[str] | None,
        typer.Option(
            help="What can be searched with; repeatable. Gaussian and salgan-mini, if none."
        ),
    ] = None,
    anew: Annotated[
        bool, typer.Option("--anew", help="Learn the words again and encode with them.")
    ] = False,
) -> None:
    """Make a folder of photographs searchable; later only what is new or changed is read."""
    from blcf_utils.apps.photographs.indexing import index_folder
    from blcf_utils.datasets.files import some_names
    from blcf_utils.datasets.formats import advice

    done = index_folder(folder, profile, weighting, anew=anew)
    for sentence in (*done.mended, *filter(None, [done.advice])):
        typer.echo(printable(sentence), err=True)
    for why in list(done.unreadable.values())[:20]:
        typer.echo(f"left out: {printable(why)}", err=True)
    if len(done.unreadable) > 20:
        typer.echo(f"left out: {len(done.unreadable) - 20:,} more like these", err=True)
    for why in done.unlisted.values():
        typer.echo(f"not looked into: {printable(why)}", err=True)
    typer.echo("read: " + ", ".join(f"{n:,} {ending}" for ending, n in done.read.items()), err=True)
    for ending, names in done.other.items():
        told = f"{len(names):,} {ending or 'without an ending'} ({some_names(names, 3)})"
        typer.echo(f"passed over: {printable(told)}: {advice(ending)}", err=True)
    typer.echo(
        f"{printable(str(folder))}: {done.photographs:,} photographs can be searched "
        f"({done.added:,} new, {done.changed:,} changed, {done.moved:,} moved, {done.kept:,} kept, "
        f"{done.removed:,} removed, {len(done.unreadable):,} unreadable) after "
        f"{done.seconds:.1f} s; the index takes {done.size / 1e6:,.1f} MB"
    )


@app.command()
def query(
    folder: Annotated[Path, typer.Argument(help="A folder that blcf index has indexed.")],
    image: Annotated[Path, typer.Argument(help="The query image, of the folder or any other.")],
    box: Annotated[
        str, typer.Option(metavar="X1,Y1,X2,Y2", help="In pixels; the whole image, if none.")
    ] = "",
    recipe: Annotated[str, typer.Option(help="Such as GS, LS + R or LS + R + LQE.")] = "LS + R",
    weighting: Annotated[str, typer.Option(help="One the folder was indexed with.")] = "None",
    top: Annotated[int, typer.Option(min=1, help="How many results.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw query and results: .jpg, .png, .pdf."),
    ] = None,
) -> None:
    """Search an indexed folder for what a box of an image shows."""
    from blcf_utils.apps.photographs.querying import query_folder, results_as_json, results_as_text

    options = {"recipe": recipe, "weighting": weighting, "top": top, "sheet": sheet}
    results = query_folder(folder, image, box, **options)
    if not results:
        typer.echo(f"{printable(str(folder))}: no photograph beside the query", err=True)
    if results or as_json:
        typer.echo(results_as_json(results) if as_json else results_as_text(results))


@app.command()
def demo(
    folder: Annotated[
        Path | None, typer.Argument(help="An indexed folder; a dataset of the profile, if none.")
    ] = None,
    profile: ProfileOption = "mini",
    dataset: Annotated[str, typer.Option(help="Of the profile; its first, if none.")] = "",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 127.0.0.1 is this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free one.")] = 8866,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
    base_url: Annotated[
        str, typer.Option(metavar="PATH", help="The page's path, as a proxy passes it on.")
    ] = "/",
    visitors: Annotated[int, typer.Option(min=1, help="At once; others are told to wait.")] = 5,
    memory: Annotated[
        float, typer.Option(min=1, metavar="GB", help="What each visitor's search may take.")
    ] = 4.0,
) -> None:
    """Serve the explorer as a web page, on a dataset or on an indexed folder."""
    from blcf_utils.apps.explorer.demo import (
        check_address,
        check_base_url,
        page_of_dataset,
        page_of_folder,
        serve,
    )

    if folder and dataset:
        raise StudyError(f"--dataset {dataset}: expected a folder or a dataset; leave one out")
    check_address(host, port)
    limits = {"base_url": check_base_url(base_url), "visitors": visitors, "memory_gb": memory}
    code = page_of_folder(folder) if folder else page_of_dataset(profile, dataset)
    raise typer.Exit(serve(code, host, port, browser, **limits))


@export_app.command("milvus")
def export_milvus(
    folder: Annotated[
        Path | None, typer.Argument(help="An indexed folder; a dataset of the profile, if none.")
    ] = None,
    uri: Annotated[
        str,
        typer.Option(
            help="http://host:19530, or a path ending in .db, where Milvus Lite keeps it."
        ),
    ] = "http://localhost:19530",
    profile: ProfileOption = "mini",
    dataset: Annotated[str, typer.Option(help="Of the profile; its first, if none.")] = "",
    weighting: Annotated[
        str | None, typer.Option(help="Of the vectors; the profile's own, if none.")
    ] = None,
    settings: SettingsOption = None,
    token: Annotated[
        str, typer.Option(envvar="MILVUS_TOKEN", help="user:password or API key of the server.")
    ] = "",
    collection: Annotated[
        str, typer.Option(help="Its name; made of profile, dataset and weighting, if none.")
    ] = "",
    anew: Annotated[
        bool, typer.Option("--anew", help="Replace what the collection holds.")
    ] = False,
    check: Annotated[
        int, typer.Option(min=0, help="Then rank so many queries by both and compare.")
    ] = 0,
) -> None:
    """Send an index to Milvus as sparse vectors; what is there already is kept."""
    from blcf_utils.apps.milvus.comparing import compare
    from blcf_utils.apps.milvus.export import export_vectors
    from blcf_utils.apps.milvus.vectors import vectors_of_collection, vectors_of_dataset

    if folder is not None:
        from blcf_utils.apps.photographs.collection import Collection

        opened = Collection(folder)
        base = replace(opened.base(weighting or "None"), dataset=opened.dataset)
        vectors = vectors_of_collection(opened, weighting or "None")
    else:
        from blcf_utils.study.study import open_study

        bench = open_study(profile, _pairs(settings, "--set")).open(dataset)
        base = bench.searcher(bench.weightings.checked(weighting)).base
        vectors = vectors_of_dataset(bench, weighting)
    done = export_vectors(vectors, uri, collection, token=token, anew=anew)
    typer.echo(
        f"{done.index.collection} at {uri}: {done.sent + done.kept:,} vectors ({done.sent:,} sent, "
        f"{done.kept:,} there already) after {done.seconds:.1f} s"
    )
    if check:
        comparison = compare(base, done.index, check)
        typer.echo(str(comparison))
        if comparison.different:
            raise typer.Exit(1)


@data_app.command("list")
def data_list() -> None:
    """List the datasets that can be downloaded and what is here already."""
    import pandas as pd

    from blcf_utils.datasets.fetching.sources import describe_sources
    from blcf_utils.results.shown import markdown

    frame = pd.DataFrame(describe_sources())
    typer.echo(markdown(frame, index=False).rstrip())


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str], typer.Argument(help="Datasets, as blcf data list names them.")],
    mirror: Annotated[
        list[str] | None, typer.Option(help="A base address tried first; repeatable.")
    ] = None,
) -> None:
    """Download and unpack datasets; what is there already is kept."""
    from blcf_utils.datasets.fetching.benchmarks import fetch_dataset

    for name in names:
        typer.echo(_shown(fetch_dataset(name, mirrors=mirror or ())))


@data_app.command("check")
def data_check(
    name: Annotated[str, typer.Argument(help="A dataset, or a folder of BLCF_DATA.")],
    decode: Annotated[bool, typer.Option(help="Decode every image.")] = True,
) -> None:
    """Check that every image of a dataset is there and readable, and its queries make sense."""
    from blcf_utils.datasets import check_dataset, load_dataset

    dataset = load_dataset(name)
    check_dataset(dataset, decode=decode)
    typer.echo(
        f"{name}: {len(dataset.images)} images and {len(dataset.queries)} queries are in order "
        f"(images {dataset.manifest}, ground truth {dataset.ground_truth_digest})"
    )


@weights_app.command("list")
def weights_list() -> None:
    """List the official weights that can be downloaded and which are here already."""
    import pandas as pd

    from blcf_utils.features.networks.published import describe_weights
    from blcf_utils.results.shown import markdown

    typer.echo(markdown(pd.DataFrame(describe_weights()), index=False).rstrip())


@weights_app.command("fetch")
def weights_fetch(
    names: Annotated[list[str], typer.Argument(help="Models, as blcf weights list names them.")],
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where they go: BLCF_WEIGHTS or data/weights, if none."),
    ] = None,
    mirror: Annotated[
        list[str] | None, typer.Option(help="A base address tried first; repeatable.")
    ] = None,
) -> None:
    """Download official weights; what is there already is kept."""
    from blcf_utils.features.networks.published import fetch_weights

    for name in names:
        typer.echo(_shown(fetch_weights(name, to, mirrors=mirror or ())))


@profile_app.command("show")
def profile_show(
    profile: Annotated[str, typer.Argument(help="A name in data/profiles, or a YAML file.")],
    settings: SettingsOption = None,
) -> None:
    """Show a profile with everything it inherits and every default, and its digest."""
    import yaml

    from blcf_utils.config.profile import load_profile

    resolved = load_profile(profile, _pairs(settings, "--set"))
    text = yaml.safe_dump(resolved.document(), sort_keys=False, allow_unicode=True)
    typer.echo(f"# digest {resolved.digest()}\n{text}".rstrip())


@profile_app.command("list")
def profile_list() -> None:
    """List the profiles."""
    from blcf_utils.config.profile import load_profile, profile_names

    names = profile_names()
    width = max(map(len, names), default=0)
    for name in names:
        typer.echo(f"{name:{width}}  {load_profile(name).description}".rstrip())


@standins_app.command("write")
def standins_write(
    folder: Annotated[Path, typer.Argument(help="Where their folders go, a value for BLCF_DATA.")],
    groundtruth: Annotated[
        Path,
        typer.Option(metavar="DIR", help="oxford5k/ and paris6k/ with text files, gnd_*.mat."),
    ],
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            help="oxford5k, paris6k, instre or oxc1_100k; repeatable. The first three, if none."
        ),
    ] = None,
    pictures: Annotated[int, typer.Option(min=2, help="Different pictures of each.")] = 96,
    seed: Annotated[int, typer.Option(help="Of the pictures and which image shows which.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; all cores, if none.")] = None,
) -> None:
    """Write oxford5k-standin and others: a benchmark's names and boxes on rendered pictures."""
    from blcf_utils.datasets.stand_ins.writing import BENCHMARKS, write_stand_ins

    options = {"pictures": pictures, "seed": seed, "workers": workers}
    written = write_stand_ins(folder, groundtruth, benchmarks=benchmark or BENCHMARKS, **options)
    for name, given in written.items():
        typer.echo(f"{name}: {len(given):,} images of {len(set(given.values())):,} pictures")


def _pairs(given: list[str] | None, option: str) -> dict[str, Any]:
    """Read ``KEY=VALUE`` options, values as YAML: 512, 0.5, true, [a, b], words."""
    import yaml

    values = {}
    for text in given or []:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise StudyError(f"{option} {text}: expected KEY=VALUE")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise StudyError(
                f"{option} {text}: the value is not YAML; quote it as YAML would need"
            ) from None
    return values


def _shown(path: Path) -> str:
    """Return a path relative to the working folder where that is shorter to read."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
