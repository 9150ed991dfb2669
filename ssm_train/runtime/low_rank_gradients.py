"""PowerSGD between the processes of a run: gradients are exchanged as products of thin matrices."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor, distributed, nn
from torch.distributed import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.futures import Future

from ssm_core.errors import CheckpointError, ConfigError
from ssm_train.registry import HOOKS
from ssm_train.runtime.gradient_exchange import ExchangeHook
from ssm_train.runtime.optimizers import GuardedOptimWrapper

KEY = "low_rank_gradients"  # where a state of a run has the state of the exchange
_LEAST_SAVING = 2  # a gradient is sent whole if its two thin matrices are more than this part of it
# Exchanges after which torch no longer lays out its buckets anew. It does so once, after the first backward pass.
_SETTLED = 2


@HOOKS.register_module()
class LowRankGradientsHook(ExchangeHook):
    """Sends gradients as products of two thin matrices (PowerSGD), for networks that are slower than the backward pass.

    What a process has not sent, it adds to its next gradient. Vectors and small matrices are sent whole. The states of
    a run have what each process has not sent, which is as large as the gradients for each process, and so a resumed run
    is exact. A process that is lost takes its part along: the run goes on from the last state that was saved.

    Args:
        rank: columns of the thin matrices. Compression is stronger with fewer; 1 to 4 are usual, and language models
            may need 32.
        start: number of updates with whole gradients before; at least 2, and better those of the warm-up.

    Raises:
        ConfigError: ``rank`` is less than 1, or ``start`` less than 2.
    """

    def __init__(self, rank: int = 4, start: int = 1000):
        if rank < 1 or start < 2:
            raise ConfigError(f"LowRankGradientsHook needs rank >= 1 and start >= 2, not {rank} and {start}")
        self.rank, self.start = rank, start
        self._exchange: LowRankExchange | None = None
        self._loaded: Mapping[str, Any] | None = None
        self._told = False

    def register(self, runner: Runner) -> None:
        """Register the exchange with the wrapper for data parallelism.

        Raises:
            ConfigError: the loss is scaled. Gradients that overflow would never leave what is still to be sent.
        """
        wrapper = runner.optim_wrapper
        if isinstance(wrapper, GuardedOptimWrapper) and wrapper.scaler.is_enabled():
            raise ConfigError("LowRankGradientsHook has no loss scale: set optim_wrapper.dtype to bfloat16 or float32")
        runner.joint_states = True
        self._exchange = LowRankExchange(runner.bare_model, self.rank, self.start)
        if self._loaded is not None:
            self._exchange.load(self._loaded)
            self._loaded = None
        runner.model.register_comm_hook(self._exchange, _exchange)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Say once what part of the numbers is sent. This cannot be late: the next exchange changes what is saved."""
        if self._exchange is not None and not self._told and (part := self._exchange.part_sent) < 1:
            runner.logger.info(f"gradients are exchanged as matrices of {self.rank} columns: {part:.1%} of the numbers")
            self._told = True

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the state of the exchange to a state of the run, in the first process."""
        if self._exchange is not None and "optimizer" in checkpoint:
            checkpoint[KEY] = {"rank": self.rank, "start": self.start, **self._exchange.state()}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the exchange, if the run goes on.

        Raises:
            CheckpointError: the run had no such exchange, or one with other numbers or processes.
        """
        saved = checkpoint.get(KEY)
        if not runner._resume or (saved is None and not runner.distributed):
            return
        if not isinstance(saved, Mapping):
            raise CheckpointError(
                "the run to resume had no LowRankGradientsHook: remove it, or start a new run from its weights with "
                "load_from"
            )
        for name, now in (("rank", self.rank), ("start", self.start), ("processes", runner.world_size)):
            if saved.get(name) != now:
                raise CheckpointError(
                    f"the run to resume had LowRankGradientsHook with {name}={saved.get(name)}, now {now}: resume with "
                    "the same, or start a new run from its weights with load_from"
                )
        parameters = dict(runner.bare_model.named_parameters())
        if not _fits(saved, parameters, runner.world_size):
            raise CheckpointError("the state of LowRankGradientsHook in the checkpoint is damaged")
        self._loaded = saved


class LowRankExchange:
    """torch's PowerSGD, with a state by parameter.

    torch keeps it by bucket, and a process that resumes a run has other buckets in its first exchange than later.

    Args:
        model: the model without a wrapper.
        rank: columns of the thin matrices.
        start: number of exchanges of whole gradients before.
    """

    def __init__(self, model: nn.Module, rank: int, start: int):
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._numbers = {name: number for number, name in enumerate(self._names.values())}
        self._rank = rank
        self._torchs = PowerSGDState(
            None, matrix_approximation_rank=rank, start_powerSGD_iter=start, min_compression_rate=_LEAST_SAVING
        )
        self._errors: dict[str, Tensor] = {}  # what this process has not sent of each gradient
        self._bases: dict[str, Tensor] = {}  # the right matrix [M, R] of the last exchange
        self._buckets: dict[int, list[tuple[str, torch.Size]]] = {}  # names and shapes of what torch keeps
        self._passes, self._begins = 0, True

    @property
    def part_sent(self) -> float:
        """The part of all numbers that has been sent since compression began; 1 before."""
        _, before, after = self._torchs.compression_stats()
        return after / before if before else 1.0

    def exchange(self, bucket: GradBucket) -> Future[Tensor]:
        """Begin to exchange the gradients of a bucket."""
        if self._begins and self._passes <= _SETTLED:
            self._take_out()
        self._passes += self._begins
        self._begins = bucket.is_last()
        if self._torchs.iter >= self._torchs.start_powerSGD_iter and bucket.index() not in self._buckets:
            self._put_in(bucket)
        future = powerSGD_hook(self._torchs, bucket)
        if distributed.get_backend() == "gloo":
            # torch waits for one exchange within a thread of another. Two buckets would block both threads of gloo.
            future.wait()
        return future

    def state(self) -> dict[str, Any]:
        """The state of all processes, in the first one; all of them have to call this. The others have their own."""
        self._take_out()
        return {
            "processes": distributed.get_world_size(),
            "exchanges": self._torchs.iter,
            "bases": dict(self._bases),
            "errors": _of_all(self._errors),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from the result of :meth:`state`."""
        self._torchs.iter = state["exchanges"]
        self._bases = dict(state["bases"])
        self._errors = dict(state["errors"][distributed.get_rank()])

    def _put_in(self, bucket: GradBucket) -> None:
        """Give torch the state of the parameters of a bucket."""
        index, buffer = bucket.index(), bucket.buffer()
        held = [(self._names[id(parameter)], parameter.shape) for parameter in bucket.parameters()]
        errors = [self._errors.pop(name, None) for name, _ in held]
        flat = [
            buffer.new_zeros(shape.numel()) if error is None else error.to(buffer).flatten()
            for error, (_, shape) in zip(errors, held, strict=True)
        ]
        bases = [self._base(name, columns).to(buffer).flatten() for name, columns in self._matrices(held)]
        rows = sum(shape[0] * self._rank_of(shape) for _, shape in held if self._is_sent_thin(shape))
        self._torchs.error_dict[index] = torch.cat(flat)
        self._torchs.q_memory_dict[index] = torch.cat(bases) if bases else buffer.new_empty(0)
        self._torchs.p_memory_dict[index] = buffer.new_empty(rows)
        self._buckets[index] = held

    def _take_out(self) -> None:
        """Take back from torch what it keeps."""
        for index, held in self._buckets.items():
            sizes = [shape.numel() for _, shape in held]
            for (name, shape), error in zip(held, self._torchs.error_dict[index].split(sizes), strict=True):
                self._errors[name] = error.view(shape)
            matrices = self._matrices(held)
            parts = self._torchs.q_memory_dict[index].split([columns[0] * columns[1] for _, columns in matrices])
            self._bases |= {name: part.view(shape) for (name, shape), part in zip(matrices, parts, strict=True)}
        for kept in (self._buckets, self._torchs.error_dict, self._torchs.q_memory_dict, self._torchs.p_memory_dict):
            kept.clear()

    def _base(self, name: str, shape: tuple[int, int]) -> Tensor:
        """The matrix of the last exchange, or a random one that is the same in all processes."""
        if name in self._bases:
            return self._bases.pop(name)
        return torch.randn(shape, generator=torch.Generator().manual_seed(self._numbers[name]))

    def _matrices(self, held: Sequence[tuple[str, torch.Size]]) -> list[tuple[str, tuple[int, int]]]:
        """The right matrices of a bucket and their shapes, in torch's order: those of one shape are together."""
        groups: dict[tuple[int, int], list[tuple[str, tuple[int, int]]]] = {}
        for name, shape in held:
            if self._is_sent_thin(shape):
                columns = shape.numel() // shape[0]
                groups.setdefault((shape[0], columns), []).append((name, (columns, self._rank_of(shape))))
        return [matrix for group in groups.values() for matrix in group]

    def _rank_of(self, shape: torch.Size) -> int:
        return min(shape[0], shape.numel() // shape[0], self._rank)

    def _is_sent_thin(self, shape: torch.Size) -> bool:
        """torch's rule."""
        if not shape or not shape[0]:
            return False
        columns = shape.numel() // shape[0]
        return (shape[0] + columns) * self._rank_of(shape) * _LEAST_SAVING < shape.numel()


def _exchange(state: LowRankExchange, bucket: GradBucket) -> Future[Tensor]:
    return state.exchange(bucket)


def _of_all(own: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors of all processes, on the CPU of the first one. The others get their own."""
    found = [{name: tensor.cpu() for name, tensor in own.items()}]
    for rank in range(1, distributed.get_world_size()):
        if distributed.get_rank() not in (0, rank):
            continue
        others: dict[str, Tensor] = {}
        for name in sorted(own):  # all processes have the same names
            if distributed.get_rank() == rank:
                distributed.send(own[name].contiguous(), 0)
            else:
                received = torch.empty_like(own[name], memory_format=torch.contiguous_format)
                distributed.recv(received, rank)
                others[name] = received.cpu()
        if distributed.get_rank() == 0:
            found.append(others)
    return found


def _fits(saved: Mapping[str, Any], parameters: Mapping[str, nn.Parameter], processes: int) -> bool:
    """Whether a state from a file has the tensors of a run's parameters, all of them finite."""
    errors, bases, exchanges = (saved.get(key) for key in ("errors", "bases", "exchanges"))
    if not isinstance(errors, list) or len(errors) != processes or type(exchanges) is not int or exchanges < 0:
        return False
    if not all(isinstance(part, Mapping) for part in (bases, *errors)):
        return False
    for name, value in ((name, value) for part in (bases, *errors) for name, value in part.items()):
        if name not in parameters or not isinstance(value, Tensor) or not value.isfinite().all():
            return False
    shaped = all(value.shape == parameters[name].shape for part in errors for name, value in part.items())
    return shaped and all(
        value.dim() == 2 and value.shape[0] * len(parameters[name]) == parameters[name].numel()
        for name, value in bases.items()
    )
