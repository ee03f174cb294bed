"""Weights from folders of torch.distributed.checkpoint (DCP), read without unpickling."""
