"""Before: Apex's mixed precision and DDP. `torchrun --nproc-per-node 2 with_apex.py`"""

import os

import torch
import torch.distributed
from apex import amp
from apex.parallel import DistributedDataParallel, convert_syncbn_model
from digits import Digits, accuracy, network
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler

device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
if device.type == "cuda":
    torch.cuda.set_device(device)
torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()

dataset = Digits()
sampler = DistributedSampler(dataset)
loader = DataLoader(dataset, batch_size=64 // world, sampler=sampler, drop_last=True)
model = convert_syncbn_model(network().to(device))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
model, optimizer = amp.initialize(model, optimizer, opt_level="O1")
model = DistributedDataParallel(model)

for epoch in range(3):
    sampler.set_epoch(epoch)
    for images, targets in loader:
        loss = cross_entropy(model(images.to(device)), targets.to(device))
        optimizer.zero_grad()
        with amp.scale_loss(loss, optimizer) as scaled:
            scaled.backward()
        optimizer.step()

if rank == 0:
    print(f"accuracy {accuracy(model.module.cpu()):.3f}")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "amp": amp.state_dict()}
    torch.save(state, "checkpoint.pt")
torch.distributed.destroy_process_group()
