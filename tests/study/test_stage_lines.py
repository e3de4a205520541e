"""Stages of a notebook's cell share one output."""

import logging

from blcf_utils.study.stage_lines import StageLines, folded


class Handle:
    def __init__(self, content):
        self.contents = [content]

    def update(self, content, raw):
        assert raw
        self.contents.append(content)


def _log(handler, message, level=logging.INFO):
    handler.emit(logging.LogRecord("blcf", level, "", 0, message, (), None))


def test_stages_of_a_cell_fold_into_one_output(capsys):
    shown, number = [], [1]

    def show(content, raw, display_id):
        assert raw and display_id  # noqa: PT018
        shown.append(Handle(content))
        return shown[-1]

    handler = StageLines(lambda: number[0], show)
    _log(handler, "features a [1] reused")
    _log(handler, "index <b> [2] made in 3.0 s")
    number[0] = 2
    _log(handler, "maps c [3] reused")
    _log(handler, "few directions", logging.WARNING)
    assert [len(one.contents) for one in shown] == [2, 1]
    assert shown[0].contents[0]["text/plain"] == "features a [1] reused"
    assert shown[0].contents[1]["text/plain"] == "2 stages: 1 reused, 1 made"
    assert "index &lt;b&gt; [2] made in 3.0 s</pre></details>" in shown[0].contents[1]["text/html"]
    assert shown[1].contents == [folded(["maps c [3] reused"])]
    assert capsys.readouterr().out == "few directions\n"


def test_outside_a_notebook_each_stage_prints_a_line(capsys):
    _log(StageLines(lambda: None), "features a [1] reused")
    assert capsys.readouterr().out == "features a [1] reused\n"
