"""`dist.reduce=exact`: gradients of all micro-batches added up by one fixed tree, the same bits on any number of ranks.

A rank adds up its own micro-batches as far as the tree allows; the sums that it is left with are exchanged by slices: rank
`s` gets slice `s` of every sum, finishes the tree for it, and hands the total to all. Where the ranks divide the micro-batches
by powers of two, each is left with one sum, and the bytes are those of an all-reduce. The exchange of a bucket of parameters
starts as soon as the last backward has filled it, and its total is handed out while later buckets are exchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed
from torch import Tensor, nn

from phalanx.dist.comm.collectives import all_gather_flat
from phalanx.dist.comm.process_group import World
from phalanx.dist.microbatches.sampler import Share, share
from phalanx.dist.strategies import summation_tree
from phalanx.dist.strategies.summation_tree import TreeNode

BUCKET_BYTES = 25 << 20  # DDP's size
IN_EXCHANGE = 4  # buckets that are being exchanged, and handed out; what was sent and received is held until then


@dataclass
class _Bucket:
    """Parameters whose gradients travel together, as one flat tensor.

    Attributes:
        sums: nodes of the tree that wait for their siblings, each `[elements]`.
        missing: gradients of the running micro-batch that are not there yet.
        exchange: what is under way, and a handle to wait for: first this rank's slice of all sums, then the total.
    """

    parameters: list[nn.Parameter]
    elements: int
    sums: dict[TreeNode, Tensor] = field(default_factory=dict)
    missing: int = 0
    exchange: "tuple[Tensor, torch.distributed.Work | None] | None" = None


def _buckets(parameters: Sequence[nn.Parameter]) -> list[_Bucket]:
    """The parameters in the order in which a backward is likely to reach them, cut by size and number format."""
    buckets: list[_Bucket] = []
    for parameter in reversed(parameters):
        size = parameter.numel() * parameter.element_size()
        fits = buckets and buckets[-1].elements * parameter.element_size() + size <= BUCKET_BYTES
        if fits and buckets[-1].parameters[0].dtype == parameter.dtype:
            buckets[-1].parameters.append(parameter)
            buckets[-1].elements += parameter.numel()
        else:
            buckets.append(_Bucket([parameter], parameter.numel()))
    return buckets


def _wait(work: "torch.distributed.Work | None") -> None:
    """Until an exchange has ended."""
    if work is not None:
        work.wait()


class ExactReduce:
    """Takes the gradients of one micro-batch after another, and leaves their sum over all of the step."""

    def __init__(self, parameters: Sequence[nn.Parameter], world: World, mine: Share):
        self._world, self._mine = world, mine
        self._buckets = _buckets(parameters)
        self._running: int | None = None
        self._started = self._exchanged = self._handed_out = 0
        self._held = [summation_tree.held(share(mine.total, rank, world.ranks.world)) for rank in range(world.ranks.world)]
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(lambda _, bucket=bucket: self._arrived(bucket))

    def expect(self, number: int) -> None:
        """The next backward is that of micro-batch `number`; other backwards are left alone."""
        self._running, self._started = number, 0
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)

    def _arrived(self, bucket: _Bucket) -> None:
        """A hook of the backward: one more gradient of a bucket is there."""
        if self._running is None:
            return  # the warm-up
        bucket.missing -= 1
        # The same order on all ranks, whatever the order in which buckets are filled.
        while self._started < len(self._buckets) and not self._buckets[self._started].missing:
            self._take(self._buckets[self._started], self._running)
            self._started += 1

    def taken(self) -> None:
        """The backward is over; buckets with parameters that it did not reach are taken now, those counting as zero."""
        if self._running is None:
            return
        for bucket in self._buckets[self._started :]:
            self._take(bucket, self._running)
        self._running = None

    def _take(self, bucket: _Bucket, number: int) -> None:
        """Moves a bucket's gradients into the tree; after the last micro-batch starts the exchange."""
        pieces = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket.parameters]
        padding = self._slice(bucket) * self._world.ranks.world - bucket.elements
        flat = torch.cat([*pieces, pieces[0].new_zeros(padding)])
        for parameter in bucket.parameters:
            parameter.grad = None
        summation_tree.add(bucket.sums, TreeNode(0, number), flat, self._mine.total, Tensor.add_)
        if number == self._mine.last - 1 and self._world.ranks.world > 1:
            self._exchange(bucket)

    def _slice(self, bucket: _Bucket) -> int:
        """Elements of a rank's slice of a bucket; the last slice is filled up with zeros."""
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
        bucket.exchange = incoming, work
        self._exchanged += 1
        if self._exchanged - self._handed_out > IN_EXCHANGE:
            self._hand_out_next()

    def finish(self) -> None:
        """Leaves in every parameter's `grad` the sum over all micro-batches."""
        while self._handed_out < self._exchanged:
            self._hand_out_next()
        self._exchanged = self._handed_out = 0
        for bucket in self._buckets:
            total = self._total(bucket)[: bucket.elements]
            pieces = total.split([p.numel() for p in bucket.parameters])
            for parameter, piece in zip(bucket.parameters, pieces, strict=True):
                parameter.grad = piece.view_as(parameter)

    def _hand_out_next(self) -> None:
        """Finishes the tree for this rank's slice of the bucket whose turn it is, and starts to hand it to all."""
        bucket = self._buckets[self._handed_out]
        self._handed_out += 1
        assert bucket.exchange is not None
        incoming, work = bucket.exchange
        _wait(work)
        nodes = [node for held in self._held for node in held]
        sums: dict[TreeNode, Tensor] = {}
        for node, piece in zip(nodes, incoming.split(self._slice(bucket)), strict=True):
            summation_tree.add(sums, node, piece, self._mine.total, Tensor.add_)
        (slice_total,) = sums.values()
        whole = incoming.new_empty(self._slice(bucket) * self._world.ranks.world)
        bucket.exchange = whole, all_gather_flat(whole, slice_total, async_op=True)
        if self._handed_out > IN_EXCHANGE:
            self._settle(self._buckets[self._handed_out - 1 - IN_EXCHANGE])

    def _settle(self, bucket: _Bucket) -> None:
        """Waits until a total is there, and lets go of what it was made from."""
        assert bucket.exchange is not None
        whole, work = bucket.exchange
        _wait(work)
        bucket.exchange = whole, None

    def _total(self, bucket: _Bucket) -> Tensor:
        """A bucket's sum, the same bits on every rank."""
        if bucket.exchange is None:
            return bucket.sums.pop(summation_tree.root(self._mine.total))
        whole, work = bucket.exchange
        bucket.exchange = None
        _wait(work)
        return whole
