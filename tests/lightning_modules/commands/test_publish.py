"""What is published: the same model as the run's, with a proof of these weights only; and the suite's own models."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from length_gen.datamodules.automaton import automaton
from length_gen.lightning_modules.certification.certificate import digest, weights_of
from length_gen.lightning_modules.commands.main import main
from length_gen.lightning_modules.commands.publish import publish
from length_gen.lightning_modules.provenance import MODELS
from length_gen.lightning_modules.runs.load import load_run
from length_gen.tools import UserError

OWN = sorted(folder.name for folder in MODELS.iterdir())


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    shutil.copytree(trained[0] / "runs/add/version_0", "runs/add/version_0")
    return load_run("runs/add/version_0")


def prove(run, weights):
    folder = run.folder / "certificate"
    folder.mkdir(exist_ok=True)
    (folder / "verdict.json").write_text(json.dumps({"outcome": "certified", "variants": ["n + m"], "decisions": 1234,
                                                     "precision": "float64", "least": 1.5}))
    np.savez(folder / "certificate.npz", header=np.array(json.dumps({"weights": weights})))
    np.savez(folder / "weights.npz", a=np.zeros(1))


def test_what_is_published_is_the_run_without_what_training_needs(run, tmp_path, capsys):
    publish(run, "out/mine")
    published = load_run("out/mine")
    assert digest(weights_of(published.backbone)) == digest(weights_of(run.backbone))
    assert published.rollout("12+39").tokens == run.rollout("12+39").tokens
    size = {folder: (Path(folder) / "checkpoints/last.ckpt").stat().st_size
            for folder in ("runs/add/version_0", "out/mine")}
    assert size["out/mine"] < 0.6 * size["runs/add/version_0"]
    text = Path("out/mine/README.md").read_text()
    assert yaml.safe_load(text.split("---")[1])["tags"][-1] == "mamba" and "Certified" not in text
    for record in json.loads((run.folder / "metrics.json").read_text())["records"]:
        assert f"| {record['length']} | {record['exact_match']:.0%} |" in text
    capsys.readouterr()
    main(["rollout", "--ckpt_path", "out/mine", "--prompt", "12+39"])
    assert "expected 51" in capsys.readouterr().out
    with pytest.raises(UserError, match="out/mine is there already: give a new --out"):
        publish(run, "out/mine")


def test_a_proof_of_other_weights_is_left_out(run, capsys):
    prove(run, digest(weights_of(run.backbone)))
    publish(run, "proved")
    assert {path.name for path in Path("proved/certificate").iterdir()} == {"verdict.json", "certificate.npz",
                                                                          "weights.npz"}
    assert "every length of n + m greedy" in (text := Path("proved/README.md").read_text())
    assert "all 1,234 decisions, least margin 1.50 logits" in text and "check.py proved/certificate/cert" in text
    prove(run, "0" * 64)
    publish(run, "other")
    assert "certificate is left out: it is of other weights" in capsys.readouterr().err
    assert not Path("other/certificate").exists() and "Certified" not in Path("other/README.md").read_text()
    (run.folder / "certificate/certificate.npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match="certificate cannot be read"):
        publish(run, "third")
    assert not Path("third").exists()


@pytest.mark.parametrize("name", OWN)
def test_the_suites_own_models_are_what_they_say(name):
    """Their weights are those that the certificate names, and they solve problems beyond those they were trained on."""
    run = load_run(name)
    proof = run.folder / "certificate/certificate.npz"
    if proof.is_file():
        with np.load(proof) as certificate:
            assert json.loads(str(certificate["header"]))["weights"] == digest(weights_of(run.backbone))
        verdict = json.loads(proof.with_name("verdict.json").read_text())
        known = [json.loads(path.read_text()) for path in (MODELS.parent / "certificates").glob("*.json")]
        assert verdict["certificate_sha256"] in {record.get("certificate_sha256") for record in known}
    length = run.task.max_length + 1
    for variant in run.task.variants_at(length):
        problem = run.data.problem("validation", length, 0, variant)
        row = run.verify(" ".join(problem.prompt))
        assert row.exact, (name, variant)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OWN if (MODELS / name / "certificate").is_dir()])
def test_a_published_proof_is_of_the_algorithm_as_it_is(name):
    """If this fails, the algorithm has other windows than were proved: certify the model again and publish it."""
    run = load_run(name)
    with np.load(run.folder / "certificate/certificate.npz") as certificate:
        header = json.loads(str(certificate["header"]))
    assert automaton(run.task, header["order"], header["order"], header["variants"]).digest() == header["automaton"]


@pytest.mark.slow
def test_a_published_proof_is_checked_by_the_checker():
    folder = MODELS / "copy/certificate"
    said = subprocess.run([sys.executable, MODELS.parent.parent / "certificates/check.py", folder / "certificate.npz",
                           folder / "weights.npz"], capture_output=True, text=True, check=False)
    assert said.returncode == 0 and "1543" in said.stdout.replace(",", "")


def test_a_name_that_is_no_model_is_told(capsys):
    with pytest.raises(SystemExit):
        main(["rollout", "--ckpt_path", "nobody", "--prompt", "1+1"])
    assert f"there is no checkpoint nobody: give the path of one, or one of {', '.join(OWN)}" in capsys.readouterr().err
