"""`dist.reduce=exact`: gradients of all micro-batches added up by one fixed tree, the same bits on any number of ranks.

A rank adds its own micro-batches as far as the tree allows; the remaining sums are exchanged by slices: rank `s` gets slice
`s` of every sum, finishes the tree for it, and sends the total to all. If the ranks divide the micro-batches by powers of two,
one sum remains on each, and the bytes are those of an all-reduce. The exchange of a bucket of parameters starts as soon as the
last backward has filled it, and its total is sent while later buckets are exchanged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
import torch.distributed
from torch import Tensor, nn

from phalanx.dist.comm.collectives import all_gather_flat
from phalanx.dist.comm.process_group import World
from phalanx.dist.microbatches.sampler import Share, share
from phalanx.dist.strategies import summation_tree
from phalanx.dist.strategies.summation_tree import TreeNode

BUCKET_BYTES = 25 << 20  # DDP's size
# A total is sent while later buckets are exchanged, which hides most of the exchange where there are many. On the CPU, where a
# message costs little, smaller ones take a tenth of a step less (ResNet-18, 2 ranks on 2 cores).
CPU_BUCKET_BYTES = 6 << 20
IN_EXCHANGE = 3  # buckets in exchange at a time; their buffers are held until then


@dataclass
class _Bucket:
    """Parameters whose gradients are exchanged together, as one flat tensor.

    Attributes:
        parameters: each with its replicas for micro-batches whose backward is one.
        sums: nodes of the tree that wait for their siblings, each `[elements]`.
        missing: those whose gradients of the running micro-batches are not there yet.
        taken: number of micro-batches whose gradients are in the tree.
        outgoing: the sums that are sent, and then the total.
        transfer: the buffer in flight, and a handle to wait for: first this rank's slice of all sums, then the total.
    """

    parameters: list[Sequence[nn.Parameter]]
    elements: int
    sums: dict[TreeNode, Tensor] = field(default_factory=dict)
    missing: set[nn.Parameter] = field(default_factory=set)
    taken: int = 0
    outgoing: Tensor | None = None
    transfer: "tuple[Tensor, torch.distributed.Work | None] | None" = None


def buckets(parameters: Sequence[nn.Parameter], most: int) -> list[list[nn.Parameter]]:
    """The parameters in the likely order of the backward, split by dtype and into this many bytes at most."""
    result: list[list[nn.Parameter]] = []
    filled = 0
    for parameter in reversed(parameters):
        size = parameter.numel() * parameter.element_size()
        if result and filled + size <= most and result[-1][0].dtype == parameter.dtype:
            result[-1].append(parameter)
            filled += size
        else:
            result.append([parameter])
            filled = size
    return result


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _wait(work: "torch.distributed.Work | None") -> None:
    """Waits until a transfer has ended."""
    if work is not None:
        work.wait()


class ExactReduce:
    """Takes the gradients of one micro-batch after another, or of several, and outputs their sum over the step.

    Args:
        replicas: of a parameter, for the micro-batches whose backward is one; the parameter itself is the first.
        pairs: whether siblings run one after the other, each with a backward of its own. Autograd then adds the gradients of
            the right one to those of the left one, as the tree does.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        world: World,
        mine: Share,
        replicas: Callable[[nn.Parameter], Sequence[nn.Parameter]] = lambda parameter: [parameter],
        pairs: bool = True,
    ):
        self._world, self._mine, self._pairs = world, mine, pairs
        most = CPU_BUCKET_BYTES if world.device.type == "cpu" else BUCKET_BYTES
        self._buckets = [_Bucket([*map(replicas, own)], sum(p.numel() for p in own)) for own in buckets(parameters, most)]
        self._running: range | None = None
        self._started = self._exchanged = self._sent = 0
        self._held = [summation_tree.held(share(mine.total, rank, world.ranks.world)) for rank in range(world.ranks.world)]
        for bucket in self._buckets:
            for parameter in chain.from_iterable(bucket.parameters):
                parameter.register_post_accumulate_grad_hook(lambda p, bucket=bucket: self._arrived(bucket, p))

    def expect(self, numbers: range) -> None:
        """Announces whose backward is the next one, by the numbers of its micro-batches; other backwards are ignored."""
        self._running, self._started = numbers, 0
        for bucket in self._buckets:
            bucket.missing = {replicas[place] for replicas in bucket.parameters for place in range(len(numbers))}

    def _arrived(self, bucket: _Bucket, parameter: nn.Parameter) -> None:
        """A hook of the backward: one more gradient of a bucket is complete."""
        if self._running is None:
            return  # the warm-up
        bucket.missing.discard(parameter)
        # The same order on all ranks, independent of the order in which buckets are filled.
        while self._started < len(self._buckets) and not self._buckets[self._started].missing:
            self._take(self._buckets[self._started], self._running)
            self._started += 1

    def taken(self) -> None:
        """Ends the backward: takes buckets with parameters that it did not reach, which count as zero."""
        if self._running is None:
            return
        for bucket in self._buckets[self._started :]:
            self._take(bucket, self._running)
        self._running = None

    def _take(self, bucket: _Bucket, numbers: range) -> None:
        """Moves a bucket's gradients into the tree; after the last micro-batch starts the exchange."""
        for parameter in bucket.missing:
            # As a gradient of zero, which makes a negative zero positive.
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.add_(0.0)
        for place, number in enumerate(numbers):
            if self._is_left_of_pair(number):
                continue  # the next backward adds its gradients to these
            self._add(bucket, number, [replicas[place] for replicas in bucket.parameters])
        bucket.taken += len(numbers)
        if bucket.taken == self._mine.size:
            bucket.taken = 0
            if self._world.ranks.world > 1:
                self._exchange(bucket)

    def _add(self, bucket: _Bucket, number: int, own: Sequence[nn.Parameter]) -> None:
        """Moves the gradients of one micro-batch, or of a pair whose right one has this number, into the tree."""
        pieces = [_gradient(p).reshape(-1) for p in own]
        left = None if self._pairs or number % 2 == 0 else bucket.sums.pop(TreeNode(0, number - 1), None)
        if left is None:
            padding = self._slice(bucket) * self._world.ranks.world - bucket.elements
            flat = torch.cat([*pieces, pieces[0].new_zeros(padding)])
        else:
            flat = left  # added piece by piece, they need no copy
            torch._foreach_add_(flat[: bucket.elements].split([p.numel() for p in pieces]), pieces)
        for parameter in own:
            parameter.grad = None
        with_left = left is not None or self._is_left_of_pair(number - 1)
        node = TreeNode(1, number // 2) if with_left else TreeNode(0, number)
        summation_tree.add(bucket.sums, node, flat, self._mine.total, Tensor.add_)

    def _is_left_of_pair(self, number: int) -> bool:
        """Whether this and the next micro-batch are siblings in the tree, and both this rank's, one after the other."""
        return self._pairs and number % 2 == 0 and self._mine.first <= number < self._mine.last - 1

    def _slice(self, bucket: _Bucket) -> int:
        """Elements of a rank's slice of a bucket; the last slice is padded with zeros."""
        return -(-bucket.elements // self._world.ranks.world)

    def _exchange(self, bucket: _Bucket) -> None:
        """Sends to each rank its slice of the sums held here, and receives those of its own slice from all."""
        ranks, size = self._world.ranks, self._slice(bucket)
        mine = self._held[ranks.rank]
        sums = [bucket.sums.pop(node) for node in mine]
        assert not bucket.sums
        outgoing = sums[0] if len(sums) == 1 else torch.stack([s.view(ranks.world, size) for s in sums], dim=1).view(-1)
        counts = [len(nodes) * size for nodes in self._held]
        incoming = outgoing.new_empty(sum(counts))
        work = torch.distributed.all_to_all_single(incoming, outgoing, counts, [len(mine) * size] * ranks.world, async_op=True)
        bucket.outgoing, bucket.transfer = outgoing, (incoming, work)
        self._exchanged += 1
        if self._exchanged - self._sent > IN_EXCHANGE:
            self._send_next_total()

    def finish(self) -> None:
        """Sets every parameter's `grad` to the sum over all micro-batches."""
        while self._sent < self._exchanged:
            self._send_next_total()
        self._exchanged = self._sent = 0
        for bucket in self._buckets:
            total = self._total(bucket)[: bucket.elements]
            pieces = total.split([first.numel() for first, *_ in bucket.parameters])
            for (parameter, *_), piece in zip(bucket.parameters, pieces, strict=True):
                parameter.grad = piece.view_as(parameter)

    def _send_next_total(self) -> None:
        """Finishes the tree for this rank's slice of the next bucket, and starts to send it to all."""
        bucket = self._buckets[self._sent]
        self._sent += 1
        assert bucket.transfer is not None and bucket.outgoing is not None
        incoming, work = bucket.transfer
        _wait(work)
        nodes = [node for held in self._held for node in held]
        sums: dict[TreeNode, Tensor] = {}
        for node, piece in zip(nodes, incoming.split(self._slice(bucket)), strict=True):
            summation_tree.add(sums, node, piece, self._mine.total, Tensor.add_)
        (slice_total,) = sums.values()
        full = bucket.outgoing[: self._slice(bucket) * self._world.ranks.world]  # it was sent
        bucket.outgoing = None
        bucket.transfer = full, all_gather_flat(full, slice_total, async_op=True)
        if self._sent > IN_EXCHANGE:
            self._settle(self._buckets[self._sent - 1 - IN_EXCHANGE])

    def _settle(self, bucket: _Bucket) -> None:
        """Waits until a total has arrived, and frees its inputs."""
        assert bucket.transfer is not None
        full, work = bucket.transfer
        _wait(work)
        bucket.transfer = full, None

    def _total(self, bucket: _Bucket) -> Tensor:
        """A bucket's sum, the same bits on every rank."""
        if bucket.transfer is None:
            return bucket.sums.pop(summation_tree.root(self._mine.total))
        full, work = bucket.transfer
        bucket.transfer = None
        _wait(work)
        return full
