"""Training of a ranker inside TFX's Trainer."""
