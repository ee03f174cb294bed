"""Before: Horovod. `horovodrun -np 2 python with_horovod.py`"""

import horovod.torch as hvd
import torch
from digits import Digits, accuracy, network
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler

hvd.init()
device = torch.device("cuda", hvd.local_rank()) if torch.cuda.is_available() else torch.device("cpu")

dataset = Digits()
sampler = DistributedSampler(dataset, num_replicas=hvd.size(), rank=hvd.rank())
loader = DataLoader(dataset, batch_size=64 // hvd.size(), sampler=sampler, drop_last=True)
model = network().to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
hvd.broadcast_parameters(model.state_dict(), root_rank=0)
hvd.broadcast_optimizer_state(optimizer, root_rank=0)

for epoch in range(3):
    sampler.set_epoch(epoch)
    for images, targets in loader:
        loss = cross_entropy(model(images.to(device)), targets.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

if hvd.rank() == 0:
    print(f"accuracy {accuracy(model.cpu()):.3f}")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "checkpoint.pt")
