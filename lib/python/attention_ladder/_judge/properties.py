"""What is true of attention, whoever computes it: all properties, in the order of a report."""

from . import properties_numbers, properties_masks, properties_calls  # noqa: F401, I001  fill the list
from .property import PROPERTIES, Property

__all__ = ["PROPERTIES", "Property"]
