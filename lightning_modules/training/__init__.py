"""What a training run is made of beside the model: callbacks, initial states, sharding."""
