"""Watches the model in service: how it does on days after those on which it was judged."""
