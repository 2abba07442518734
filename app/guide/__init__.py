"""The field guide: one card a recipe, with a picture of what leaves a layer, and what was measured of it."""

from app.guide.cards import CARDS, Card
from app.guide.measured import Level, Measured, read_measured
from app.guide.picture import layer_picture

__all__ = ["CARDS", "Card", "Level", "Measured", "layer_picture", "read_measured"]
