"""PyTorch Geometric: a GraphSAGE layer that aggregates neighbours with an LSTM."""

import torch
from torch_geometric.nn import SAGEConv

from .case import Case, of


def case() -> Case:
    """Return a layer of 128 channels on a graph of 1,000 nodes and 4,000 edges."""
    edges = torch.randint(1000, (2, 4000))
    edges = edges[:, edges[1].argsort()]  # as the aggregation wants them
    return of(SAGEConv(128, 128, aggr="lstm"), torch.randn(1000, 128), edges)
