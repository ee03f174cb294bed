"""A DQN (Mnih et al., Nature 518, 2015) that balances the pole of gymnasium's CartPole-v1.

The memory of transitions and the state of the environment are buffers of the network, so they are in every checkpoint, and a
resumed run goes on in the middle of an episode. Every rank plays the same game; a batch is numbers that choose from the memory.
"""

import copy

import gymnasium
import torch
from torch import nn
from torch.nn.functional import smooth_l1_loss

OBSERVED, ACTIONS, LAST = 4, 2, 50


class Choices:
    """Numbers between 0 and 1; for validation, numbers of episodes."""

    classes, kind = (), "regression"

    def __init__(self, root, split, count=10000, episodes=20):
        self.values = (torch.arange(count) + 0.5) / count if split == "train" else torch.arange(episodes, dtype=torch.float32)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, i):
        return {"input": self.values[i], "target": torch.zeros(1)}


class Dqn(nn.Module):
    def __init__(self, hidden=128, capacity=10000, gamma=0.99):
        super().__init__()
        self.capacity, self.gamma = capacity, gamma
        layers = nn.Linear(OBSERVED, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, ACTIONS)
        self.online = nn.Sequential(*layers)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        for name, width in {"before": OBSERVED, "after": OBSERVED, "reward": 1, "ended": 1}.items():
            self.register_buffer(name, torch.zeros(capacity, width))
        self.register_buffer("action", torch.zeros(capacity, 1, dtype=torch.long))
        # Transitions, episodes, and steps of the running episode; its state, and the returns of the last episodes.
        self.register_buffer("counts", torch.zeros(3, dtype=torch.long))
        self.register_buffer("state", torch.zeros(OBSERVED))
        self.register_buffer("returns", torch.zeros(LAST))

    def forward(self, choices):
        """The values of chosen transitions [B], and what they should be, [B]."""
        rows = (choices * self.counts[0].clamp(1, self.capacity)).long()
        value = self.online(self.before[rows]).gather(1, self.action[rows])
        with torch.no_grad():
            best = self.target(self.after[rows]).max(1, keepdim=True).values
            wanted = self.reward[rows] + self.gamma * best * (1 - self.ended[rows])
        return value.squeeze(1), wanted.squeeze(1)


class Play:
    """Acts and learns in turn."""

    def __init__(self, config, data, acts=4, random_acts=1000, explore=(1.0, 0.05, 8000), copy_every=100):
        self.acts, self.random_acts, self.explore, self.copy_every = acts, random_acts, explore, copy_every
        self.environment = gymnasium.make("CartPole-v1")

    def before_step(self, model, step):
        if step % self.copy_every == 0:
            for ours, theirs in zip(model.target.parameters(), model.online.parameters(), strict=True):
                ours.copy_(theirs)
        for _ in range(self.random_acts if step == 0 else self.acts):
            self.act(model)

    def act(self, model):
        transitions, episode, length = model.counts.tolist()
        if length == 0:
            self.environment.reset(seed=episode)
            model.state.copy_(torch.tensor(self.environment.unwrapped.state))
        before = model.state.clone()
        first, last, until = self.explore
        share = max(last, first - (first - last) * transitions / until)
        # Both are drawn at every act, so that what is drawn does not depend on what was chosen.
        draw, action = torch.rand(()), int(torch.randint(ACTIONS, ()))
        if draw >= share:
            action = int(model.online(before[None]).argmax())
        self.environment.unwrapped.state = before.tolist()  # as the checkpoint has it
        self.environment.unwrapped.steps_beyond_terminated = None
        after, reward, ended, _, _ = self.environment.unwrapped.step(action)
        row = transitions % model.capacity
        model.before[row], model.action[row], model.reward[row] = before, action, float(reward)
        model.state.copy_(torch.tensor(self.environment.unwrapped.state))
        model.after[row], model.ended[row] = torch.as_tensor(after), float(ended)
        over = ended or length + 1 == 500
        if over:
            model.returns[episode % LAST] = length + 1.0
        model.counts.copy_(torch.tensor([transitions + 1, episode + over, 0 if over else length + 1]))

    def weights(self, batch):
        return {"td": float(len(batch["input"]))}

    def losses(self, model, batch):
        value, wanted = model(batch["input"])
        return {"td": (smooth_l1_loss(value, wanted, reduction="sum"), len(value))}

    def measure(self, model, batch):
        """Plays the episodes of the batch without exploring."""
        lengths = [self.play(model, 1_000_000 + int(number)) for number in batch["input"]]
        played, episodes = int(model.counts[1]), min(LAST, int(model.counts[1]))
        trained = model.returns.sum() / max(1, episodes) * len(lengths)
        return {
            "length": torch.tensor(sum(lengths)), "episodes": torch.tensor(len(lengths)), "trained": trained.double(),
            "played": torch.tensor(played * len(lengths)),
        }  # fmt: skip

    def play(self, model, seed):
        seen, ended, length = self.environment.reset(seed=seed)[0], False, 0
        while not ended and length < 500:
            action = int(model.online(torch.as_tensor(seen).to(model.state)[None]).argmax())
            seen, _, ended, _, _ = self.environment.unwrapped.step(action)
            length += 1
        return length

    def metrics(self, sums):
        """Mean returns of greedy episodes and of the last ones while learning, and how many of those there were."""
        n = sums["episodes"]
        return {"return": sums["length"] / n, "return_while_learning": sums["trained"] / n, "played": sums["played"] / n}
