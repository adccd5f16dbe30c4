"""Trains a grid of models and balancers over seeds, and says which to take."""
