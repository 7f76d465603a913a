"""Whole interactive rollouts a second, tool included, beside the libraries' decoding alone.

    python benchmarks/rollout.py                       # a Mamba of 24 x 768 on a GPU, trained first: about 4 minutes
    python benchmarks/rollout.py --small               # a Mamba of 2 x 64 on the CPU

`ours` is `rollout` from the problems to the tokens that were said: prompts (their share of the tokens is `prompt`;
they are taken many tokens at a time where that is faster), commands, observations, refilled rows, and the start,
whose seconds stand beside it (weights cast, a CUDA graph captured, once for all problems of a length; what Triton
compiles once on a machine, and NVRTC and the libraries load once a process, is in neither). `alternative` is
mamba-ssm's decoding in a CUDA graph (no tool, no choice of rows) for each batch, and Hugging Face's generate; on the
CPU it is the other engine, and for one rollout with the reference as draft the same rollout in steps alone. `floor`
are the tokens/s at which prompts cost nothing, and for every other token of a batch the weights are read once, and the
states read and written once, at the speed of a large copy. Writes results/benchmarks/rollout.json, where rows of other
batches are kept.
"""

import functools
import gc
import time

import torch
from models import copy_bandwidth, floor, trained

from length_gen.datamodules.rollout import budget
from length_gen.datamodules.tasks import Addition
from length_gen.lightning_modules.backbones import Mamba
from length_gen.lightning_modules.decoding.batched_rollout import Rows
from length_gen.lightning_modules.decoding.rollout import rollout
from length_gen.lightning_modules.decoding.settings import Decoding
from length_gen.lightning_modules.model import TrajectoryModel
from length_gen.lightning_modules.reporting.measurements import Records, arguments

TARGETS = {64: 150_000, 256: 400_000, 1024: 700_000}


def main() -> None:
    """Train a model, and measure its rollouts."""
    options = arguments(__doc__, lambda options: "rollout" + "_cpu" * options.small, small=False, batches=[int],
                        digits=(int, "of the sums"), steps=(int, "of the training before"))
    task = Addition(5)
    if options.small:
        shape, steps, rows, length = {"n_layer": 2, "d_model": 64}, 300, 32, 512
    else:
        shape, steps, rows, length = {"n_layer": 24, "d_model": 768}, 150, 64, 1024
    model = trained(task, functools.partial(Mamba, **shape, dt_min=0.1, dt_max=1.0),
                    steps if options.steps is None else options.steps, rows, length)
    records = Records(options.out, model.device, ("what", "alternative_name"), targets=TARGETS)

    def add(what: str, ours: float, name: str, alternative: float | None, floor: float | None, exact: float,
            seconds: float, prompt: float, start: float | None = None) -> dict:
        row = {"what": what, "ours": ours, "alternative": alternative, "alternative_name": name, "unit": "tokens/s",
               "ratio": ours / alternative if alternative else None, "floor": floor, "exact_match": exact,
               "seconds": seconds, "start_seconds": start, "prompt": prompt}
        records.add(row)
        return row

    if options.small:
        digits = options.digits or 1000
        for batch in (32, 16):
            ours, exact, seconds, prompt = measure(model, task, batch, batch, digits, Decoding("host"))
            device = measure(model, task, batch, batch, digits, Decoding("device"))[0]
            add(f"{batch} rollouts of {digits:,} digits, 2 x 64", ours, "device engine", device, None, exact, seconds,
                prompt)
        ours, exact, seconds, prompt = measure(model, task, 1, 1, digits, Decoding("draft"))
        steps = measure(model, task, 1, 1, digits, Decoding("host"))[0]
        add(f"1 rollout of {digits:,} digits, 2 x 64, the reference as draft", ours, "steps alone", steps, None, exact,
            seconds, prompt)
    else:
        bandwidth, digits, first = copy_bandwidth(), options.digits or 200, None
        print(f"copy: {bandwidth / 1e12:.2f} TB/s")
        for batch in options.batches or TARGETS:
            for weights, states in (("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float32", "float32")):
                if weights == "float32" and batch != 64:
                    continue
                decoding = Decoding("device", weights, states)
                measure(model, task, batch, batch, 2, decoding)  # compiles
                measure(model, task, batch, batch, digits, decoding, said=16)  # passes over prompts too
                start = start_up(model, task, batch, digits, decoding)
                ours, exact, seconds, prompt = measure(model, task, 2 * batch, batch, digits, decoding)
                lowest = floor(model.backbone, batch, weights, states, bandwidth) / (1 - prompt)
                row = add(f"batch {batch}, weights {weights}, states {states}", ours,
                          "mamba-ssm decode in a CUDA graph", library_decode(model, batch), lowest, exact, seconds,
                          prompt, start)
                first = first or (batch, row)
        batch, row = first
        add(row["what"], row["ours"], "Hugging Face generate", hugging_face_generate(model, batch), None,
            row["exact_match"], row["seconds"], row["prompt"], row["start_seconds"])
    records.show()


def measure(model: TrajectoryModel, task: Addition, problems: int, batch: int, digits: int,
            decoding: Decoding, said: int | None = None) -> tuple[float, float, float, float]:
    """Tokens/s of whole rollouts, the share that is exact, their seconds, and the prompts' share of the tokens.

    said: tokens after the prompt at most; None: as many as are allowed
    """
    chosen = [task.problem("test", 0, digits, index) for index in range(problems)]
    references = [task.record(problem) for problem in chosen]
    limits = [budget(reference) if said is None else len(problem.prompt) + said
              for problem, reference in zip(chosen, references, strict=True)]
    gc.collect()  # of what the references left, whose many tokens no collection should go through meanwhile
    begun = time.perf_counter()
    rows = rollout(model.backbone, model.vocabulary, task, list(zip(chosen, limits, strict=True)), batch, decoding,
                   drafts=[reference.tokens for reference in references])
    seconds = time.perf_counter() - begun
    exact = sum(row.tokens == reference.tokens for row, reference in zip(rows, references, strict=True))
    tokens, prompts = (sum(map(len, texts)) for texts in ([row.tokens for row in rows], [p.prompt for p in chosen]))
    return tokens / seconds, exact / problems, seconds, prompts / tokens


def start_up(model: TrajectoryModel, task: Addition, batch: int, digits: int, decoding: Decoding) -> float:
    """Seconds until the first step of a rollout; `measure` has them too."""
    problem = task.problem("test", 0, digits, 0)
    capacity = budget(task.record(problem))
    begun = time.perf_counter()
    with torch.inference_mode():
        Rows(model.backbone, model.vocabulary, task.tool(problem), batch, capacity, decoding)
        torch.cuda.synchronize()
    return time.perf_counter() - begun


@functools.cache
def library_decode(model: TrajectoryModel, batch: int) -> float | None:
    """Tokens/s of mamba-ssm's cached decoding of the same shape in a CUDA graph, bf16; None without mamba-ssm."""
    try:
        from mamba_ssm.models.config_mamba import MambaConfig
        from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
        from mamba_ssm.utils.generation import update_graph_cache
    except ImportError:
        return None
    layers, width = len(model.backbone.backbone["layers"]), model.backbone.lm_head.in_features
    library = MambaLMHeadModel(MambaConfig(width, 0, layers, len(model.vocabulary), {"layer": "Mamba1"},
                                           pad_vocab_size_multiple=8), device="cuda", dtype=torch.bfloat16).eval()
    with torch.inference_mode():
        cache = update_graph_cache(library, None, batch, seqlen_og=1, max_seqlen=64)
        tokens = torch.zeros(batch, 1, dtype=torch.long, device="cuda")
        positions = torch.full_like(tokens, 5)
        seconds = _time(lambda: cache.run(tokens, positions, 5))
    return batch / seconds


def hugging_face_generate(model: TrajectoryModel, batch: int) -> float | None:
    """Tokens/s of transformers' generate on a Mamba of the same shape, bf16; None without transformers."""
    try:
        from transformers import MambaConfig, MambaForCausalLM
    except ImportError:
        return None
    layers, width = len(model.backbone.backbone["layers"]), model.backbone.lm_head.in_features
    config = MambaConfig(vocab_size=len(model.vocabulary), hidden_size=width, num_hidden_layers=layers,
                         eos_token_id=None, pad_token_id=0, bos_token_id=0)
    library = MambaForCausalLM(config).cuda().to(torch.bfloat16).eval()
    prompt = torch.ones(batch, 8, dtype=torch.long, device="cuda")
    with torch.inference_mode():
        library.generate(prompt, max_new_tokens=4, do_sample=False)
        torch.cuda.synchronize()
        begun = time.perf_counter()
        library.generate(prompt, max_new_tokens=32, min_new_tokens=32, do_sample=False)
        torch.cuda.synchronize()
    return batch * 32 / (time.perf_counter() - begun)


def _time(work, repeats: int = 50) -> float:
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - begun) / repeats


if __name__ == "__main__":
    main()
