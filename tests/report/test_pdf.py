"""A browser prints the page: here one that notes what it was asked for."""

import sys

import pytest

from mambalab.errors import UserError
from mambalab.report import pdf

PRINTS = """#!{python}
import sys
target = next(w.partition("=")[2] for w in sys.argv if w.startswith("--print-to-pdf="))
page = open(sys.argv[-1].removeprefix("file://")).read()
open(target, "w").write("%PDF-1.4 " + page + " ".join(sys.argv))
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that makes a program the only browser of this machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(pdf, "BROWSERS", ("chromium", "chrome"))

    def make(program: str) -> None:
        path = folder / "chrome"
        path.write_text(program.replace("{python}", sys.executable))
        path.chmod(0o755)

    return make


def test_the_page_is_printed_without_headers_and_with_a_profile_of_its_own(install, tmp_path):
    install(PRINTS)
    target = tmp_path / "out" / "report.pdf"
    assert pdf.write("<p>é</p>", target) == target
    said = target.read_text()
    assert said.startswith("%PDF-1.4 <p>é</p>")
    assert {"--headless", "--no-pdf-header-footer"} <= set(said.split())
    assert "--user-data-dir=" in said


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (None, "no Chromium, Chrome or Edge is installed here"),
        ("#!{python}\nimport sys\nsys.exit('it is broken\\x1b')", r"failed \(it is broken\?\)"),
        ("#!{python}\n", "wrote no PDF"),
        ("#!/nowhere\n", "cannot start"),
        ("#!{python}\nimport time\ntime.sleep(60)", "took more than 0.2 seconds"),
    ],
)
def test_without_a_browser_that_works_people_are_told_what_to_do(
    install, tmp_path, monkeypatch, program, why
):
    if program is not None:
        install(program)
    if "sleep" in str(program):
        monkeypatch.setattr(pdf, "MAX_SECONDS", 0.2)
    with pytest.raises(
        UserError, match=f"format=pdf: .*{why}.*: write the page without format=pdf"
    ):
        pdf.write("<p>page</p>", tmp_path / "report.pdf")
    assert not (tmp_path / "report.pdf").exists()
