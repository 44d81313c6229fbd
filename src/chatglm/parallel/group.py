"""The processes of one run: who this one is, and the sums that all of them agree on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

# Gradients are summed in flat pieces of this many numbers.
_PIECE = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Group:
    """One process among `size`; alone unless torchrun started several.

    tensor_size: how many neighbours hold one copy of the network together; each such team reads
    rows of its own. mesh: teams by members (data, tensor), where there are teams.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    tensor_size: int = 1
    mesh: DeviceMesh | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and speaks."""
        return self.rank == 0

    @property
    def tensor_rank(self) -> int:
        """The place in the team."""
        return self.rank % self.tensor_size

    @property
    def data_rank(self) -> int:
        """The team's number."""
        return self.rank // self.tensor_size

    @property
    def data_size(self) -> int:
        """How many teams there are; each reads its share of the rows."""
        return self.size // self.tensor_size

    @property
    def data_group(self) -> dist.ProcessGroup | None:
        """Those at the same place in the other teams; None for all processes."""
        return None if self.mesh is None else self.mesh["data"].get_group()

    @property
    def device(self) -> torch.device:
        """Where this process computes: a GPU of its own where there are some."""
        if torch.cuda.is_available():
            return torch.device("cuda", self.local_rank)
        return torch.device("cpu")

    def sum(self, *values: float) -> list[float]:
        """Each value summed over the teams, the same on all processes."""
        if self.data_size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, group=self.data_group)
        return [float(value) for value in tensor]

    def largest(self, value: int) -> int:
        """The largest of the processes' values."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def from_first(self, value: int) -> int:
        """The value of the first process."""
        return self.largest(value if self.is_first else torch.iinfo(torch.int64).min)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the teams; sharded ones are summed already."""
        if self.data_size == 1:
            return
        plain: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if not is_sharded(parameter):
                plain.append(parameter.grad)
        piece: list[Tensor] = []
        for number, gradient in enumerate(plain, start=1):
            piece.append(gradient)
            if number == len(plain) or sum(g.numel() for g in piece) >= _PIECE:
                flat = torch.cat([g.flatten().float() for g in piece])
                dist.all_reduce(flat, group=self.data_group)
                sizes = [g.numel() for g in piece]
                for g, summed in zip(piece, flat.split(sizes), strict=True):
                    g.copy_(summed.view_as(g))
                piece = []

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """End the group; a process alone has nothing to end."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def join(*, tensor_size: int = 1) -> Group:
    """The group that torchrun's environment tells of (RANK, WORLD_SIZE, LOCAL_RANK), joined, in
    teams of `tensor_size`.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size % tensor_size:
        raise ValueError(
            f"tensor_parallel is {tensor_size} and there are {size} processes; start a multiple of "
            f"it: torchrun --nproc-per-node {tensor_size} -m chatglm …"
        )
    if size == 1:
        return Group()
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    device = Group(local_rank=local_rank).device
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        # Who has found the others may end with an error before these have found each other, and
        # they would wait for half an hour.
        dist.barrier()
    mesh = None
    if tensor_size > 1:
        shape = (size // tensor_size, tensor_size)
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=("data", "tensor"))
    return Group(rank=rank, size=size, local_rank=local_rank, tensor_size=tensor_size, mesh=mesh)


def is_sharded(tensor: Tensor) -> bool:
    """Whether a parameter lies in pieces on several processes."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each process may hold a piece; all processes ask together."""
    gather = getattr(tensor, "full_tensor", None)
    found: Tensor = tensor if gather is None else gather()
    return found
