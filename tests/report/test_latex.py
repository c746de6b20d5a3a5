"""The table is LaTeX that compiles, by a small parser, and by pdflatex where there is one."""

import re
import shutil
import subprocess

import pytest

from mambalab.compare.select import compare_records
from mambalab.report.latex import cell, escape, table
from tests.records.example_runs import make_group

COMMANDS = {  # that LaTeX itself knows, booktabs' three, and how many arguments each takes
    **dict.fromkeys(["begin", "end", "caption", "label"], 1),
    **dict.fromkeys(["toprule", "midrule", "bottomrule", "centering", "medskip"], 0),
    **dict.fromkeys(["footnotesize", "linewidth", "pm", "times", "ldots", "\\"], 0),
    **dict.fromkeys(["textbackslash", "textasciitilde", "textasciicircum", "textless"], 0),
    **dict.fromkeys(["textgreater", "textbar", "textquotedblright", "textperiodcentered"], 0),
    **dict.fromkeys(["textendash", "textemdash"], 0),
    **dict.fromkeys("{}$&#%_", 0),
}  # fmt: skip
TOKEN = re.compile(r"\\([a-zA-Z]+|.)|%[^\n]*\n|([{}$&#_^~])|[^\\%{}$&#_^~]+", re.S)
EVIL = (
    "50% of A_1 & B^2 #3 ~x {\\input{/etc/passwd}} $y$ \"q\" 'r' `s` [t] *u* <v> |w| "
    "ß é 漢 -- --- ?`"
)


def parse(text: str) -> list[list[str]]:
    """Read LaTeX and return the cells of its rows; fails where LaTeX would stop."""
    depth, mathematics, rows, environments = 0, False, [[""]], []
    at = 0
    while at < len(text):
        token = TOKEN.match(text, at)
        assert token, text[at : at + 30]
        word, special = token[1], token[2]
        at = token.end()
        if word is not None:
            assert word in COMMANDS, f"\\{word}"
            if word == "\\":
                rows.append([""])
                assert not re.match(r"\s*[\[*]", text[at:]), "taken for an option of the row's end"
            if COMMANDS[word]:
                argument = re.match(r"\{([^{}]*)\}", text[at:])
                assert argument or word == "caption", f"\\{word} without an argument"
            if word in ("begin", "end") and argument:
                if word == "begin":
                    environments.append(argument[1])
                else:
                    assert environments.pop() == argument[1]
        elif special in ("{", "}"):
            depth += 1 if special == "{" else -1
            assert depth >= 0
        elif special == "$":
            mathematics = not mathematics
        elif special == "&":
            assert "tabular" in environments
            assert not mathematics
            rows[-1].append("")
            continue
        elif special is not None:
            assert special in ("_^" if mathematics else ""), f"{special} outside mathematics"
        rows[-1][-1] += token[0]
    assert (depth, mathematics, environments) == (0, False, [])
    return rows


@pytest.fixture
def found(tmp_path):
    records = [
        *make_group(tmp_path / "a", [1.50, 1.52, 1.51], rise=0.3),
        *make_group(tmp_path / "b", [1.40, 1.43, 1.41], dropout="ssm"),
    ]
    return compare_records(records, [])


def test_a_row_for_each_group_with_intervals_and_verdicts(found):
    text = table(found)
    rows = [[c.strip() for c in row] for row in parse(text)]
    assert rows[0][1:] == ["$n$", "best val/loss", "difference", "$p$ (Holm)", "verdict"]
    rows = [[re.sub(r".*rule\s+", "", row[0], flags=re.S), *row[1:]] for row in rows]
    assert rows[1] == [
        "dropout=ssm",
        "$3$",
        "$1.4133 \\pm 0.0379$",
        "$-0.0967 \\pm 0.0143$",
        "$0.0012$",
        "better",
    ]
    assert rows[2][0].split()[-1] == "dropout=none"
    assert rows[2][3:] == ["--", "--", "baseline"]
    assert "\\begin{tabular}{lrrrrl}" in text
    assert "\\caption{Best val/loss on toy by group (less is better).}" in text
    assert "\\label{tab:toy-val-loss}" in text
    assert "Mean over n = 3 seeds with its 95 \\% interval (Student's t)." in text
    assert "Validation loss turns up without dropout: +0.3000" in text


def test_words_of_strangers_are_escaped(tmp_path):
    records = [
        *make_group(tmp_path / "a", [1.5], model__name=EVIL, task__name=EVIL),
        *make_group(tmp_path / "b", [1.4], model__name="[x] " + EVIL, task__name=EVIL),
    ]
    text = table(compare_records(records, []))
    parse(text)
    assert "\\input" not in text
    assert "50\\% of A\\_1 \\&" in text


@pytest.mark.parametrize(
    ("plain", "written"),
    [
        ("+0.3252 ± 0.5578", r"$+0.3252 \pm 0.5578$"),
        ("1.2e-05 ± 3.0e-06", r"$1.2 \times 10^{-5} \pm 3.0 \times 10^{-6}$"),
        ("1.4740 (1.4711 to 1.4775)", "$1.4740$ ($1.4711$ to $1.4775$)"),
        ("<0.0001", "$<0.0001$"),
        ("12,345", "$12{,}345$"),
        ("-", "--"),
        ("equal", "equal"),
        ("too few seeds", "too few seeds"),
    ],
)
def test_numbers_are_mathematics(plain, written):
    assert cell(plain) == written
    parse(written)


def test_what_would_become_another_sign_does_not():
    assert escape("a--b '' ?` ¿ é ẍ") == "a-{}-b '{}' ?{}`{} ? é ?"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_pdflatex_compiles_it(found, tmp_path):
    body = table(found) + escape(EVIL)
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}{body}"
    (tmp_path / "t.tex").write_text(document + "\\end{document}", encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
