"""The command `export`: a trained backbone for transformers."""

from length_gen.lightning_modules.backbones import pretrained
from length_gen.lightning_modules.runs.load import Run


def export(run: Run, out: str) -> None:
    """Write a trained backbone as config.json and model.safetensors, which transformers loads.

    Args:
        run: a trained model
        out: a new folder; tokens.json in it lists the vocabulary
    """
    architecture = pretrained.export(run.backbone, out, run.vocabulary.tokens)
    print(f"{out}: load it with transformers.{architecture}.from_pretrained({out!r})")
