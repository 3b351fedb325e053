"""`expand` of a sublayer that goes on with `project` of the next one while the new streams are at hand."""

from odenets.kernels.expand_project.op import MOST_STREAMS, expand_project

__all__ = ["MOST_STREAMS", "expand_project"]
