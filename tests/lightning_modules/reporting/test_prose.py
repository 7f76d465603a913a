import json
from pathlib import Path

import pytest
import yaml

from length_gen.lightning_modules.reporting.prose import documents
from length_gen.tools import UserError

TEXT = """# Speed

Trained on 5 digits, it takes 46 s on an H100 for
ten million digits (`--steps 2000`), 3% of them wrong.

    run.py --minutes 9
"""
CLAIM = {"says": "it takes {:.0f} s on an H100 for ten million digits", "from": "verify.json",
         "values": ["records[?length==`10000000`] | [0].seconds"]}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Makes the documents of claims on `TEXT`, or another; gives its text and what is wrong."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "verify.json").write_text(json.dumps({"records": [
        {"length": 1000, "seconds": 5.0}, {"length": 10**7, "seconds": 42.47}]}))

    def make(text=TEXT, names=(), sources=None, **parts):
        (tmp_path / "README.md").write_text(text)
        (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"names": list(names), "documents": {"README.md": parts}}))
        texts, wrong = documents(tmp_path / "claims.yaml", sources or {})
        return texts[Path("README.md")], wrong

    return make


def test_numbers_are_filled_in_from_their_records_across_lines(made):
    text, wrong = made(claims=[CLAIM], plain=["Trained on 5 digits", "3% of them"])
    assert "it takes 42 s on an H100 for\nten million digits" in text and not wrong
    assert text == TEXT.replace("46", "42")


def test_a_number_that_is_in_no_claim_is_named(made):
    _, wrong = made(claims=[CLAIM], names=["on # digits"])
    line, = wrong
    assert line.startswith("README.md: no record is named for 3% in: ") and "3% of them wrong" in line


def test_code_and_links_say_no_numbers(made):
    _, wrong = made("`4 x 256` and [a page](docs/v2/3.md), bfloat16, H200, mamba-2\n\n    seconds 4\n")
    assert not wrong


@pytest.mark.parametrize("number", ["7", "1,024", "0.5", "3e-4", "99%", "9.5%"])
def test_every_form_of_number_counts(made, number):
    _, (line,) = made(f"It is {number}, or so.")
    assert f"for {number} in" in line


def test_a_sentence_that_is_not_there_is_named(made):
    _, wrong = made(claims=[{**CLAIM, "says": "it took {} s"}], plain=["Trained on 5 digits", "3% of", "46 s"])
    assert wrong == ["README.md has 0 places that say: it took {} s"]


def test_tables_are_made_of_records(made):
    columns = {"n": "{length:,}", "s": "{seconds:.1f}"}
    spec = {"from": "verify.json", "rows": "records[?seconds>`10`]", "columns": columns}
    text, wrong = made("Before\n<!-- table: a -->\nold\n<!-- end -->\nafter\n", tables={"a": spec})
    assert text == ("Before\n<!-- table: a -->\n\n| n | s |\n|---|---|\n| 10,000,000 | 42.5 |\n\n<!-- end -->\nafter\n")
    assert not wrong
    assert made("Nothing", tables={"a": spec})[1] == [
        "README.md has no place for the table a: <!-- table: a --> and <!-- end -->"]


def test_what_one_row_alone_lacks_is_a_dash(made, tmp_path):
    for k, content in enumerate(({"a": 1, "b": 2.0}, {"a": 3})):
        (tmp_path / f"part{k}.json").write_text(json.dumps(content))
    spec = {"from": "part*.json", "rows": "[*]", "columns": {"x": "{a}", "y": "{b:.1f}"}}
    text, _ = made("<!-- table: t -->\n<!-- end -->", tables={"t": spec})
    assert "| 1 | 2.0 |\n| 3 | \N{EM DASH} |" in text
    with pytest.raises(UserError, match="KeyError: 'c'"):
        made("<!-- table: t -->\n<!-- end -->", tables={"t": {**spec, "columns": {"z": "{c}"}}})


def test_what_a_claim_can_compute(made, tmp_path):
    for k in (1, 2):
        (tmp_path / f"run{k}.json").write_text(json.dumps({"seed": k, "rate": 1234.5 * k}))
    claims = [{"says": "a {:.2f} b", "from": ["run1.json", "run2.json"], "values": ["divide(run2.rate, run1.rate)"]},
              {"says": "c {:,} d", "from": "run1.json", "values": ["round(rate, `-2`)"]},
              {"says": "e {:.1f} f", "from": "run*.json", "values": ["subtract(max([].seed), min([].seed))"]},
              {"says": "g {:.0%} h", "from": "own", "values": ["share"]}]
    text, wrong = made("a 0 b, c 0 d, e 0 f, g 0 h", claims=claims, sources={"own": {"share": 0.5}})
    assert text == "a 2.00 b, c 1,200 d, e 1.0 f, g 50% h" and not wrong


@pytest.mark.parametrize(("change", "words"), [
    ({"from": "gone.json"}, "gone.json"),
    ({"values": ["records[?length==`7`] | [0].seconds"]}, "no record has records"),
    ({"values": ["records["]}, "records"), ({"values": []}, "0 values for: it takes"),
    ({"values": ["records"]}, "unsupported format")])
def test_a_claim_that_no_record_answers_is_one_line(made, change, words):
    with pytest.raises(UserError, match=rf"claims\.yaml is no file of claims \(.*{words}"):
        made(claims=[{**CLAIM, **change}])


@pytest.mark.parametrize("content", ["a", "documents: 3", "documents: {README.md: 3}", "a: [",
                                     "documents: {gone.md: {}}"])
def test_a_file_that_holds_no_claims_is_one_line(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("nothing")
    (tmp_path / "claims.yaml").write_text(content)
    with pytest.raises(UserError, match=r"claims\.yaml is no file of claims .*expected documents with claims"):
        documents(tmp_path / "claims.yaml", {})
