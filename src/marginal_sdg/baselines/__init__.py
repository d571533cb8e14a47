"""Other mechanisms, for comparison."""
