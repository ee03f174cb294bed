"""Sharded checkpoints: a tensor is a flat array, a shard is a range of it. Nothing is ever unpickled.

`checkpoints/step-00001000/` holds one safetensors file per rank, `shards/rank-00003.safetensors`, whose entries are contiguous
ranges of flattened tensors, and `manifest.json`, written last. A directory without a valid manifest does not exist.
"""
