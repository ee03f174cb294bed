"""What `accelerate config`, `accelerate launch` and DeepSpeed files say about keys of ours."""
