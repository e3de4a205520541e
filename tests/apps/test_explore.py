"""The explorer: uploads are checked, knobs change the ranking, reasons add up, widgets follow."""

import fcntl
import io
from pathlib import Path

import numpy as np
import pytest
from album import paint
from PIL import Image

from blcf_utils.apps.explorer import pictures
from blcf_utils.apps.explorer.explorer import Explorer
from blcf_utils.apps.explorer.panel import Panel, explore_folder
from blcf_utils.apps.explorer.pictures import plot_answer, show_answer, show_why
from blcf_utils.apps.explorer.subject import FolderSubject
from blcf_utils.apps.explorer.uploads import accept
from blcf_utils.apps.photographs.indexing import index_folder
from blcf_utils.apps.photographs.manifest import home_of
from blcf_utils.datasets.formats import usual_ending
from blcf_utils.ground.errors import StudyError
from blcf_utils.plots.canvas import RELEVANT, WRONG
from blcf_utils.search.recipes import Searcher


def encoded(kind, size=(40, 30)):
    stream = io.BytesIO()
    several = {"save_all": True, "append_images": [Image.new("RGB", (8, 6))]}
    options = several if kind == "MPO" else {}
    Image.new("RGB", size, (200, 30, 30)).save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def subject(album, album_profile):
    (album / "queries.csv").write_text(
        "id,image,x1,y1,x2,y2,positives,junk\n"
        "poster,day0/00.jpg,30,20,78,68,day1/01.jpg;day0/02.jpg,\n"
    )
    index_folder(album, album_profile, ["Gaussian"])
    return FolderSubject(album)


def named(subject, name):
    return next(path for path in subject.dataset.images if path.name == name)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG2000", "MPO"])
def test_photographs_are_accepted_under_a_name_of_our_own(kind, tmp_path):
    path = accept(tmp_path, "../../etc/passwd.php", encoded(kind))
    assert (path.parent, path.stem) == (tmp_path, "0001")
    assert (Image.open(path).format, path.suffix) == (kind, usual_ending(kind))
    assert accept(tmp_path, "another", encoded(kind)).stem == "0002"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a photograph of at most 25 MiB, found an empty file"),
        (b"x" * (25 * 2**20 + 9999), "found 25.01 MiB; send another file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "found another kind of file"),
        (b"MZ" + bytes(500), "found another kind of file"),
        (encoded("PCX"), "found another kind of file"),
        (encoded("JPEG")[:-200], "does not decode to the end"),
        (encoded("PNG", (9000, 9000)), "at most 60 million pixels, found 9000x9000"),
        (encoded("PNG", (20000, 20000)), "too many pixels"),
    ],
)
def test_anything_else_is_refused_and_not_kept(content, message, tmp_path):
    with pytest.raises(StudyError, match=message):
        accept(tmp_path, "photo.jpg", content)
    assert list(tmp_path.iterdir()) == []


def test_the_name_in_a_message_is_short_and_printable(tmp_path):
    with pytest.raises(StudyError) as caught:
        accept(tmp_path, "a/\x1b[31m" + "n" * 500 + ".jpg", b"")
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_knobs_change_the_answer_and_refuse_what_is_unknown(subject):
    explorer = Explorer(subject)
    local = explorer.answer
    assert local.ap == pytest.approx(1.0)
    assert [hit.verdict for hit in local.hits[:3]] == ["relevant", "relevant", "not relevant"]
    whole = explorer.turn(mode="GS").answer
    assert [hit.score for hit in whole.hits] != [hit.score for hit in local.hits]
    scores = [hit.score for hit in explorer.turn(mode="LS", weighting="Gaussian").answer.hits]
    assert scores != [hit.score for hit in local.hits]
    assert explorer.turn(rerank=True, expansion="LQE").answer.knobs.recipe == "LS + R + LQE"
    for wrong in ({"mode": "local"}, {"weighting": "BMS"}, {"colour": 1}):
        with pytest.raises(StudyError, match=r"unknown .*: expected one of"):
            explorer.turn(**wrong)
    with pytest.raises(StudyError, match="expected an image from 0 to 11, found 12"):
        explorer.ask(12)


def test_the_answer_is_the_commands_answer(subject, album):
    from blcf_utils.apps.photographs.querying import query_folder

    hits = Explorer(subject, rerank=True).answer.hits
    found = query_folder(album, "day0/00.jpg", (30, 20, 78, 68), top=len(hits))
    assert [hit.name for hit in hits] == [one.photograph.rpartition("/")[2] for one in found]
    assert [hit.score for hit in hits] == pytest.approx([one.score for one in found])
    assert hits[0].box == pytest.approx(found[0].box, abs=0.1)


@pytest.mark.parametrize("weighting", ["None", "Gaussian"])
def test_the_words_contributions_add_up_to_the_score(subject, weighting):
    explorer = Explorer(subject, weighting=weighting)
    for hit in explorer.answer.hits[:4]:
        total = explorer.contributions(hit.image)["contribution"].sum()
        assert total == pytest.approx(hit.score, abs=1e-5)


def test_the_page_has_the_colours_and_marks_of_the_pictures():
    static = Path(pictures.__file__).parent / "static"
    style = (static / "explore.css").read_text(encoding="utf-8")
    script = (static / "results.js").read_text(encoding="utf-8")
    for verdict, colour in (("relevant", RELEVANT), ("not relevant", WRONG)):
        assert pictures.COLOURS[verdict] == colour
        assert f".blcf-{verdict.replace(' ', '-')} {{ border-color: {colour}; }}" in style
        assert f'"{pictures.MARKS[verdict]}{verdict}"' in script


def test_what_is_relevant_follows_the_box(subject):
    explorer = Explorer(subject)
    assert explorer.draw((0, 0, 20, 15)).answer.ap is None
    assert explorer.draw((32, 22, 70, 60)).answer.query.instance == "poster"
    of_a_positive = explorer.ask(named(subject, "02.jpg")).answer
    names = [path.name for path in subject.dataset.images]
    assert {names[i] for i in of_a_positive.query.positives} == {"00.jpg", "01.jpg"}
    assert explorer.ask(named(subject, "11.jpg")).answer.ap is None


def test_pictures_are_drawn_with_and_without_truth(subject):
    explorer = Explorer(subject, weighting="Gaussian", expansion="GQE")
    assert len(show_answer(explorer).axes) >= 12
    assert plot_answer(explorer.answer).axes[0].lines
    why = show_why(explorer, explorer.answer.first("relevant"))
    assert why.axes[0].patches  # the words on the query
    explorer.ask(named(subject, "11.jpg"))
    assert not plot_answer(explorer.answer).axes[0].lines
    show_why(explorer, explorer.answer.first("not relevant")).canvas.draw()


def test_widgets_ask_and_show(subject):
    panel = Panel(subject)
    shown = list(panel.results.hits)
    assert len(panel.results.jpegs) == len(shown)
    assert "AP 1.000" in panel.summary.value
    panel.knobs["mode"].value = "GS"
    assert panel.results.hits != shown
    panel.knobs["mode"].value = "LS"
    assert panel.results.hits == shown
    panel.canvas.box = [0, 0, 50, 40]
    assert panel.box.value == "0,0,50,40"
    assert panel.results.hits != shown
    panel.box.value = "one,two"
    assert "expected x1,y1,x2,y2" in panel.message.value
    panel.box.value = "30,20,78,68"
    assert panel.message.value == ""
    assert panel.results.hits == shown
    click(panel, why=shown[0]["image"])
    assert bytes(panel.why.value).startswith(b"\x89PNG")
    assert panel.details.selected_index == 1
    click(panel, pick=shown[0]["image"])
    assert panel.explorer.query.image == subject.dataset.images[shown[0]["image"]]
    assert panel.box.value == ""


def click(panel, **message):
    panel.results._handle_custom_msg(message, [])


def send(panel, name, content, size=None):
    """Send a photograph as the page does; one that is too large comes without its bytes."""
    about = {"name": name, "size": len(content) if size is None else size}
    panel.upload._handle_custom_msg(about, [memoryview(content)] if content else [])


def test_an_upload_becomes_the_query_and_a_bad_one_is_said(subject, album):
    panel = Panel(subject)
    content = (album / "day0" / "00.jpg").read_bytes()
    send(panel, "mine.jpg", content)
    assert str(panel.explorer.query.image.parent) == panel.uploads.name
    assert panel.results.hits[0]["name"] == "00.jpg"
    assert "nothing known" in panel.summary.value
    before = panel.results.hits
    send(panel, "<b>.jpg", b"no photograph")
    assert "&lt;b&gt;.jpg: expected a photograph (jpg" in panel.message.value
    assert panel.results.hits == before
    send(panel, "mine.jpg", content)
    assert panel.message.value == ""
    send(panel, "vast.jpg", b"", 2**30)
    assert "vast.jpg: expected" in panel.message.value
    assert "found 1024.00 MiB" in panel.message.value


def test_a_photograph_no_network_can_take_is_said(subject):
    panel = Panel(subject)
    send(panel, "strip.png", encoded("PNG", (3000, 2)))
    assert "too narrow for the network" in panel.message.value
    panel.knobs["mode"].value = "GS"  # the last query is still asked
    assert panel.message.value == ""
    assert panel.explorer.query.image.name == "00.jpg"


def test_a_fault_is_said_instead_of_swallowed(subject, monkeypatch, caplog):
    panel = Panel(subject)
    monkeypatch.setattr("blcf_utils.apps.explorer.panel.show_why", lambda *_: 1 / 0)
    click(panel, why=panel.results.hits[0]["image"])
    assert "a fault of the explorer: ZeroDivisionError" in panel.message.value
    assert "ZeroDivisionError" in caplog.text


def test_an_explanation_is_of_what_is_shown(subject):
    panel = Panel(subject)
    first = panel.results.hits[0]["image"]
    click(panel, why=first)
    before, plain = bytes(panel.why.value), panel.caption.value
    panel.knobs["weighting"].value = "Gaussian"
    assert bytes(panel.why.value) != before
    assert "blcf-stale" not in panel.why._dom_classes
    assert panel.caption.value == plain
    click(panel, pick=first)
    assert panel.why.layout.display == "none"
    assert "Press" in panel.caption.value


def test_lists_follow_the_query_and_lead_back(subject):
    panel = Panel(subject)
    asked, box = panel.start.value, panel.box.value
    assert asked == (named(subject, "00.jpg"), (30, 20, 78, 68))
    assert panel.image.value == "day0/00.jpg"
    assert panel.back.disabled
    click(panel, pick=panel.results.hits[0]["image"])
    assert panel.start.value is None
    assert panel.image.value in ("day1/01.jpg", "day0/02.jpg")
    panel.start.value = asked  # the same entry as before can be chosen again
    assert panel.box.value == box
    panel.image.value = "day1/11.jpg"
    assert panel.explorer.query.image.name == "11.jpg"
    assert panel.details.selected_index == 0
    panel.back.click()
    assert (panel.start.value, panel.image.value) == (asked, "day0/00.jpg")
    for wrong in ("/etc/hostname", "../holiday/day1/11.jpg", "none.jpg"):
        panel.image.value = wrong
        assert "no image of that name in holiday" in panel.message.value
        assert panel.explorer.query.image.name == "00.jpg"


@pytest.mark.parametrize("text", ["nan,0,50,40", "50,40,0,0", "900,900,950,950"])
def test_a_senseless_box_is_said(subject, text):
    panel = Panel(subject)
    before = panel.results.hits
    panel.box.value = text
    assert "box" in panel.message.value
    assert panel.results.hits == before


def test_every_step_has_run_before_the_first_answer_is_timed(subject, monkeypatch):
    asked = []
    run = Searcher.run
    monkeypatch.setattr(Searcher, "run", lambda *a: asked.append(a[1]) or run(*a))
    panel = Panel(subject, weighting="Gaussian", mode="GS")
    assert {step for recipe in asked[:-1] for step in recipe.split(" + ")} >= {"R", "LQE", "GQE"}
    assert asked[-1] == "GS"
    assert panel.explorer.knobs.weighting == "Gaussian"
    assert panel.knobs["mode"].value == "GS"


def test_a_viewer_without_widgets_is_shown_a_picture(subject):
    data = Panel(subject)._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    pixels = np.asarray(Image.open(io.BytesIO(data["image/png"])))
    assert pixels.std() > 10


def test_a_photograph_turned_by_exif_is_boxed_as_it_is_seen(subject, tmp_path):
    paint(tmp_path / "upright.jpg", 5, 1, (120, 90))
    turned = Image.open(tmp_path / "upright.jpg").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer turns it clockwise
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    answer = Explorer(subject).ask(tmp_path / "turned.jpg", (30, 20, 78, 68)).answer
    assert answer.base.query_size(answer.query) == (120, 90)
    assert {hit.name for hit in answer.hits[:3]} == {"03.jpg", "04.jpg", "05.jpg"}


def test_a_page_does_not_mix_its_words_with_those_of_a_later_indexing(album, album_profile):
    index_folder(album, album_profile, [])
    panel = explore_folder(album)
    paint(album.parent / "elsewhere.jpg", 20, 0)
    for i in range(5):
        paint(album / f"new-{i}.jpg", 100 + i, i)
    index_folder(album, anew=True)
    with pytest.raises(StudyError, match="was indexed anew since it was opened; open it again"):
        assert panel.explorer.ask(album.parent / "elsewhere.jpg").answer
    panel.again.click()
    hits = panel.explorer.ask(album.parent / "elsewhere.jpg", (30, 20, 78, 68)).answer.hits
    assert {hit.name for hit in hits[:4]} == {"00.jpg", "01.jpg", "02.jpg", "new-0.jpg"}


def test_the_first_photograph_may_be_gone_or_changed(album, album_profile):
    index_folder(album, album_profile, [])
    (album / "day0" / "00.jpg").unlink()
    (album / "day0" / "02.jpg").write_bytes(b"no photograph")
    paint(album / "day0" / "04.jpg", 99, size=(400, 300))
    explorer = explore_folder(album).explorer
    assert explorer.query.image == album / "day0" / "06.jpg"
    explorer.ask("day1/01.jpg", np.array([30, 20, 78, 68]))
    assert explorer.query.box == (30, 20, 78, 68)
    with pytest.raises(StudyError, match=r"04.jpg: was changed since .* run blcf index"):
        explorer.ask("day0/04.jpg", (200, 200, 390, 290))


def test_a_panel_looks_again_for_new_photographs(album, album_profile):
    index_folder(album, album_profile, ["Gaussian"])
    panel = explore_folder(album, weighting="Gaussian", rerank=True)
    panel.box.value = "30,20,78,68"
    paint(album / "day2" / "12.jpg", 12, 0)  # once more the poster of the first photograph
    (album / "day1" / "11.jpg").unlink()
    (album / "day1" / "torn.jpg").write_bytes(b"no photograph")
    assert "day2/12.jpg" not in panel.image.options
    panel.again.click()
    assert "12 photographs: 1 new, 1 removed, 1 left out" in panel.message.value
    assert {"day2/12.jpg", "day1/11.jpg"} & set(panel.image.options) == {"day2/12.jpg"}
    # Query, box and knobs are as they were, and the new photograph is among the results.
    assert panel.image.value == "day0/00.jpg"
    assert panel.box.value == "30,20,78,68"
    assert panel.explorer.knobs.recipe == "LS + R"
    assert panel.explorer.knobs.weighting == panel.knobs["weighting"].value == "Gaussian"
    names = [hit["name"] for hit in panel.results.hits]
    assert set(names[:3]) == {"02.jpg", "01.jpg", "12.jpg"}
    panel.image.value = "day2/12.jpg"
    assert panel.explorer.query.image == album / "day2" / "12.jpg"

    (album / "day2" / "12.jpg").unlink()
    panel.again.click()
    assert "11 photographs: 1 removed, 1 left out" in panel.message.value
    assert panel.image.value == "day0/00.jpg"  # the query is gone; the first one is shown
    panel.again.click()
    assert "11 photographs: 1 left out" in panel.message.value
    with open(home_of(album) / ".lock") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        panel.again.click()
    assert "another process is indexing it" in panel.message.value
    assert not panel.again.disabled
