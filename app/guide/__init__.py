"""The field guide: one card a recipe, with a picture of what leaves a layer."""

from app.guide.cards import CARDS, Card
from app.guide.picture import layer_picture

__all__ = ["CARDS", "Card", "layer_picture"]
