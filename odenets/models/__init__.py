"""Models: stacks over integration time, neural ODEs, and what is built around them."""

from odenets.models.classifier import ImageClassifier
from odenets.models.flow_stack import FlowStack
from odenets.models.language_model import LanguageModel
from odenets.models.neural_ode import NeuralODE

__all__ = ["FlowStack", "ImageClassifier", "LanguageModel", "NeuralODE"]
