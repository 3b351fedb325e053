"""Models: stacks over integration time, neural ODEs, and what is built around them."""

from odenets.models.classifier import ImageClassifier
from odenets.models.cnf import CNF
from odenets.models.flow_ode import FlowODE
from odenets.models.flow_stack import FlowStack
from odenets.models.language_model import LanguageModel
from odenets.models.latent_ode import LatentODE
from odenets.models.neural_ode import NeuralODE

__all__ = ["CNF", "FlowODE", "FlowStack", "ImageClassifier", "LanguageModel", "LatentODE", "NeuralODE"]
