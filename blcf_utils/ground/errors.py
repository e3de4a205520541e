"""The one exception users of the study are meant to read."""


class StudyError(Exception):
    """Bad input or a missing file, said in one sentence.

    The message names the file or key, says what was expected and how to mend it. The command
    line prints it without a traceback; a notebook shows it as the last line of the failed cell.
    """


def known(kind: str, name: str, names) -> StudyError:
    """Return the error for an unknown name: it lists the names that exist."""
    return StudyError(f"unknown {kind} {name!r}: expected one of {', '.join(sorted(names))}")
