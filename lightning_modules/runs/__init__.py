"""Runs on disk: folders.py claims and finds them, checkpoints.py reads what is in them, load.py gives one to a program.

Which run and checkpoint a command takes that names none says commands/arguments.py: the newest run (folders.py), its
last checkpoint, or the one before where that is torn (checkpoints.py). sweep.py trains grids of runs; trust.py says
what a configuration that is found beside a checkpoint may import. Checkpoints are written by
training/callbacks/last_checkpoint.py; pretrained weights are read in backbones/pretrained_files.py.
"""
