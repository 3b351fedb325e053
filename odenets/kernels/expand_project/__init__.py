"""`expand` of a sublayer that goes on with `project` of the next one while the new streams are at hand."""

from odenets.kernels.expand_project.op import expand_project

__all__ = ["expand_project"]
