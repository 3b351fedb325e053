"""tsit5 where the problem is not stiff, rodas5p where it is, chosen on the way; see `Switching`."""

from ..implicit.switching import Switching
from .rodas5p import RODAS5P
from .tsit5 import TSIT5

AUTO_TSIT5_RODAS5P = Switching("auto_tsit5_rodas5p", TSIT5, RODAS5P, interval=3.5068)
