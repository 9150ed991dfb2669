"""The faults that the values of a graph can have, and the errors that every implementation raises for them."""

import enum

from ssm_core.errors import NonFiniteError


class Fault(enum.IntEnum):
    """The first column of the kernel's ``fault`` output; the second column says where. Numbered as C++'s GraphFault."""

    NONE = 0
    ROOT = 1
    EDGE = 2
    WEIGHT = 3
    DISCONNECTED = 4


def raise_fault(fault: Fault, sample: int, where: int) -> None:
    """Raise the error of one sample's fault.

    Args:
        fault: what is wrong.
        sample: the sample's place in the batch.
        where: the index of the edge at fault; for ``ROOT`` the root.

    Raises:
        NonFiniteError: a weight is NaN or infinite.
        ValueError: any other fault.
    """
    graph = f"minimum_spanning_tree: in sample {sample}"
    if fault is Fault.WEIGHT:
        raise NonFiniteError(f"{graph} the weight of edge {where} is NaN or infinite; look at what it is computed from")
    raise ValueError(
        {
            Fault.ROOT: f"{graph} the root is {where}, which is no vertex of the graph",
            Fault.EDGE: f"{graph} edge {where} has an end that is no vertex of the graph",
            Fault.DISCONNECTED: f"{graph} the graph is not connected, so it has no spanning tree; add edges",
        }[fault]
    )
