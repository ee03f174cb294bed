"""Settings of `accelerate config`, `accelerate launch` and DeepSpeed files for keys of Phalanx."""
