"""--result: how a boot ended, in a file, for whoever collects the results of many."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvmxen.domain.ending import Ending
from kvmxen.errors import Interrupted, KvmxenError
from kvmxen.streams import say


class Result:
    """The result of the domain `name`; `ending` and `status` are set when they are known."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ending: Ending | None = None
        self.status = KvmxenError.exit_status
        self.reason = ""
        self.began = time.time()

    @property
    def end(self) -> str:
        """As in a Record, or failed: the guest was never started."""
        return self.ending.end.name.lower() if self.ending else "failed"

    def facts(self) -> dict[str, object]:
        """All that is known, as JSON has it."""
        ending = self.ending
        return {
            "name": self.name,
            "end": self.end,
            "status": self.status,
            "began": self.began,
            "seconds": round(time.time() - self.began, 3),
            "reason": ending.reason if ending and ending.reason else self.reason,
            "report": ending.report if ending else "",
        }


@contextmanager
def reported(name: str, path: Path | None) -> Iterator[Result]:
    """Write the result to `path` when the context ends, however it does; atomically.

    The form is JUnit's, if the path ends in .xml, else JSON. Raises KvmxenError at the beginning if
    it cannot be written.
    """
    result = Result(name)
    if path is None:
        yield result
        return
    try:
        # The result of an earlier boot must not be taken for this one's.
        path.write_text("")
    except OSError as error:
        raise KvmxenError(
            f"cannot write the --result file {path}: {error.strerror}; choose another file"
        ) from None
    try:
        yield result
    except (KvmxenError, Interrupted) as error:
        result.status, result.reason = error.exit_status, str(error)
        raise
    finally:
        _write(path, result.facts())


def _write(path: Path, facts: dict[str, object]) -> None:
    if path.suffix == ".xml":
        text = _junit(facts)
    else:
        import json

        text = json.dumps(facts, indent=2) + "\n"
    new = path.with_name(f"{path.name}.new")
    try:
        new.write_text(text)
        new.replace(path)
    except OSError as error:
        say(f"cannot write the --result file {path}: {error.strerror}")


def _junit(facts: dict[str, object]) -> str:
    from xml.etree import ElementTree

    failed = facts["status"] != 0
    suite = ElementTree.Element("testsuite", name="kvmxen", tests="1", failures=str(int(failed)))
    case = ElementTree.SubElement(
        suite, "testcase", classname="kvmxen", name=str(facts["name"]), time=str(facts["seconds"])
    )
    if failed:
        why = str(facts["reason"] or facts["end"])
        failure = ElementTree.SubElement(
            case, "failure", message=_allowed(why), type=str(facts["end"])
        )
        failure.text = _allowed(str(facts["report"]))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _allowed(text: str) -> str:
    """`text` without the characters that XML cannot have; a guest's console may have any."""
    return "".join(c if c in "\t\n" or c.isprintable() else "\ufffd" for c in text)
