"""`benchmarks/forecast.py`: what a forecast was worth."""

import json
from types import SimpleNamespace

import pytest
import yaml

from benchmarks import forecast


def test_every_machine_of_the_sweep_has_a_reader_s_forecast_and_a_state_as_written():
    machines, reader = forecast.machines(), yaml.safe_load(forecast.READER.read_text())
    assert machines.keys() == reader.keys() and len(machines) == 20
    for name, task in machines.items():
        assert str(task.state_every) == next((end for end in ("never", "change", "8") if name.endswith("_" + end)), "1")
    assert all(0 < p < 1 for pair in reader.values() for p in pair)


def test_what_was_not_evaluated_any_more_is_not_reached(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/forecast_6").mkdir(parents=True)
    shares = {("", 6): 1.0, ("", 60): 0.0, ("up to n", 6): 1.0, ("up to n", 60): 1.0, ("up to n", 600): 1.0}
    (tmp_path / "results/forecast_6/one_2x64_seed1.json").write_text(json.dumps({"records": [
        {"variant": variant, "length": length, "exact_match": share} for (variant, length), share in shares.items()]}))
    assert forecast.outcomes("one") == {60: [False], 600: [False]}


def test_the_score_by_hand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = {"horizon": 0.9, "coverage": 0.1, "tokens": 0.9, "reader at 60": 0.5, "reader at 600": 0.2}
    said |= {"horizon at 60": 5, "tokens at 60": 793.0}  # what it was said by
    (tmp_path / "results/theory").mkdir(parents=True)
    (tmp_path / "results/theory/forecast.json").write_text(json.dumps(
        {"records": [{"machine": "one", **said}, {"machine": "two", **said, "horizon": 0.1}]}))
    (tmp_path / "results/forecast_6").mkdir()
    came = {"one_2x64_seed1": (1.0, 1.0), "one_2x64_seed2": (1.0, 0.75), "two_2x64_seed1": (0.0, 0.0)}
    for name, shares in came.items():
        (tmp_path / f"results/forecast_6/{name}.json").write_text(json.dumps({"records": [
            {"length": length, "variant": variant, "exact_match": share if variant else 1.0}
            for length, share in zip(forecast.REACHED, shares, strict=True) for variant in ("", "up to n")]}))
    forecast.score(SimpleNamespace(out=None))
    capsys.readouterr()
    records = []
    monkeypatch.setattr(forecast.Records, "add", lambda self, record: records.append(record) or self.append(record))
    forecast.score(SimpleNamespace(out=None))
    found = {(row["length"], row["forecaster"]): row for row in records if "Brier" in row}
    assert found[60, "horizon"]["Brier"] == pytest.approx((0.01 + 0.01 + 0.01) / 3)
    assert found[600, "horizon"]["Brier"] == pytest.approx((0.01 + 0.81 + 0.01) / 3)
    assert found[600, "reader"]["Brier"] == pytest.approx((0.64 + 0.04 + 0.04) / 3)
    assert found[60, "yes"]["Brier"] == pytest.approx(1 / 3)
    assert found[600, "horizon"]["came of likely"] == "1 of 2" and found[600, "horizon"]["came of unlikely"] == "0 of 1"
    assert all(row["from"] <= row["Brier"] <= row["to"] for row in found.values())
    assert [row["exact at 60"] for row in records if "Brier" not in row] == ["2 of 2", "0 of 1"]
