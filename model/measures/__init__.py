"""How good predictions and attention are."""
