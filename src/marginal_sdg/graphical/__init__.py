"""The graphical-model engine: junction trees, exact inference, sampling."""
