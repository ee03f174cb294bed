"""Before: Accelerate. `accelerate launch with_accelerate.py`"""

from accelerate import Accelerator
from digits import Digits, accuracy, network
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.utils.data import DataLoader

accelerator = Accelerator()
loader = DataLoader(Digits(), batch_size=64 // accelerator.num_processes, shuffle=True, drop_last=True)
model = network()
optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

for _epoch in range(3):
    for images, targets in loader:
        loss = cross_entropy(model(images), targets)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()

if accelerator.is_main_process:
    print(f"accuracy {accuracy(accelerator.unwrap_model(model).cpu()):.3f}")
accelerator.save_model(model, "accelerate_model")
accelerator.end_training()
