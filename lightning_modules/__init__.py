"""Models and what is done with them; tasks and trajectories are in datamodules, the tools that models call in tools.

    model.py        the LightningModule: masked loss, optimizer, learning rate; nothing else
    provenance.py   what made a result, and the names of files that all rooms share
    errors.py       what an error of a library is, where its type does not say
    backbones/      the networks, one file a family, their kernels, and the decoders that step them
    decoding/       rollouts: rows that the model and the real tool write in turns, on the host or on the device
    evaluation/     what a rollout or `verify` says about one model: outcomes, records by length, tables, figures
    training/       what a run has beside the model: callbacks, initial states, sharding
    certification/  proofs that a model is exact at every length
    runs/           run folders, the checkpoints in them, a run in one's own program, sweeps
    reporting/      pages and figures over many runs
    commands/       the command line: one function a command

Imports go one way: backbones <- decoding <- evaluation <- model and training <- certification <- runs <- reporting <-
commands.
"""

if __name__ != "length_gen.lightning_modules":
    raise ImportError("lightning_modules is no package of its own: import length_gen.lightning_modules")
