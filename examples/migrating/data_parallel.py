"""Before: nn.DataParallel, one process for all GPUs of a machine. `python data_parallel.py`"""

import torch
from digits import Digits, accuracy, network
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
loader = DataLoader(Digits(), batch_size=64, shuffle=True, drop_last=True)
model = nn.DataParallel(network().to(device))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

for _epoch in range(3):
    for images, targets in loader:
        loss = cross_entropy(model(images.to(device)), targets.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

print(f"accuracy {accuracy(model.module.cpu()):.3f}")
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "checkpoint.pt")
