"""Before: DDP by hand. `torchrun --nproc-per-node 2 ddp.py`"""

import os

import torch
import torch.distributed
from digits import Digits, accuracy, network
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")

dataset = Digits()
sampler = DistributedSampler(dataset)
loader = DataLoader(dataset, batch_size=64 // world, sampler=sampler, drop_last=True)
model = DistributedDataParallel(network().to(device))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

for epoch in range(3):
    sampler.set_epoch(epoch)
    for images, targets in loader:
        loss = cross_entropy(model(images.to(device)), targets.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

if rank == 0:
    print(f"accuracy {accuracy(model.module.cpu()):.3f}")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "checkpoint.pt")
torch.distributed.destroy_process_group()
