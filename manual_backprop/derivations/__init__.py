"""Why backpropagation is what it is: its derivations with every matrix written out, for small sizes.

layouts        where the numbers of a derivative stand, and how one convention converts to another
jacobians      the full Jacobian of every rule
chain          a network as the product of its Jacobians
association    the order in which that product is multiplied out, and its cost
equations      the textbook equations for networks of dense layers
graphs         the total derivative as a sum over all paths
"""

from .chain import Chain, chain
from .jacobians import jacobians
from .layouts import Jacobian

__all__ = ["Chain", "Jacobian", "chain", "jacobians"]
