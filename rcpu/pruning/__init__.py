"""How it is run: recipe, plan, the layer loop, one site."""
