"""Cutting a graph into clusters by its leading eigenvectors."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import scipy.sparse.linalg as spl

_DENSE = 400  # up to so many nodes a dense solver is faster, and it never fails to converge


def embedding(incidence: sp.csr_matrix, count: int) -> np.ndarray:
    """float64[n, count]: the nodes of a co-occurrence graph in the coordinates that spectral clustering cuts.

    incidence: X [rows, n] of zeros and ones. The graph is A = X'X without its diagonal; it is never formed. The columns are the
    eigenvectors of the `count` largest eigenvalues of D^-1/2 A D^-1/2, largest first, divided by D^1/2. Nodes without an edge
    have degree 1. 1 <= count <= n. There are fewer columns if the solver found only some (it is asked with a relative
    tolerance of 1e-6 and a fixed start: the result is a function of the graph).
    """
    n = incidence.shape[1]
    own = np.asarray(incidence.sum(axis=0), np.float64).ravel()
    degree = incidence.T @ (incidence @ np.ones(n)) - own
    root = np.sqrt(np.where(degree > 0, degree, 1.0))
    if n <= max(_DENSE, count + 1):
        graph = (incidence.T @ incidence).toarray()
        np.fill_diagonal(graph, 0)
        values, vectors = scipy.linalg.eigh(graph / root[:, None] / root, subset_by_index=[n - count, n - 1])
    else:

        def apply(v: np.ndarray) -> np.ndarray:
            v = v.ravel() / root
            return (incidence.T @ (incidence @ v) - own * v) / root

        start = np.random.default_rng(0).uniform(-1, 1, n)
        operator = spl.LinearOperator((n, n), matvec=apply, dtype=np.float64)
        try:
            values, vectors = spl.eigsh(operator, count, which="LA", v0=start, tol=1e-6)
        except spl.ArpackNoConvergence as error:
            values, vectors = error.eigenvalues, error.eigenvectors
    return vectors[:, np.argsort(-values, kind="stable")] / root[:, None]


def clusters(vectors: np.ndarray) -> np.ndarray:
    """int64[n], 0, 1, ...: at most k clusters of points float64[n, k], by pivoted QR (Damle, Minden & Ying 2019, "cluster_qr").

    k points that stand apart are found by pivoting, rotated onto the axes, and every point goes to its largest coordinate. There
    is no random start, and a change of sign or order of the columns changes nothing but the numbers of the clusters.
    """
    pivots = scipy.linalg.qr(vectors.T, pivoting=True, mode="r")[1][: vectors.shape[1]]
    u, _, v = scipy.linalg.svd(vectors[pivots].T)
    return np.unique(np.abs(vectors @ (u @ v)).argmax(axis=1), return_inverse=True)[1].astype(np.int64)


def runs(vectors: np.ndarray, count: int) -> np.ndarray:
    """int64[n]: `count` equal runs of points along the second column (the smoothest way to lay the graph on a line)."""
    n = len(vectors)
    line = vectors[:, min(1, vectors.shape[1] - 1)] if vectors.shape[1] else np.arange(n)
    found = np.empty(n, np.int64)
    found[np.argsort(line, kind="stable")] = np.arange(n) * count // n
    return found
