"""The joined operator in plain torch: the definition."""

from torch import Tensor

from odenets.kernels.mhc import reference


def expand_project(x: Tensor, mixing: Tensor, post: Tensor, f: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """X+ = H_res X + H_post^T f [.., n, C], and of it m = vec(X+) phi [.., N] and the mean square [..]."""
    new = reference.expand(x, mixing, post, f)
    return new, *reference.project(new, phi)
