"""What a training run has beside the model: callbacks/, initial_states.py (where rows start), sharding.py (FSDP2).

The loss and the optimizer are in ../model.py, the stream of rows in datamodules.
"""
