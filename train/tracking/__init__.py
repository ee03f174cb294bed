"""Where a run's figures go: metrics.jsonl, events.jsonl, the terminal, W&B, TensorBoard, the ledger."""
