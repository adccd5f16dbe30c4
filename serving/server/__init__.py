"""The embedded server: TF Serving's protocol for local runs, tests and demos. TF Serving is what production runs."""

from serving.server.errors import ServingError
from serving.server.server import Server, ServerOptions

__all__ = ["Server", "ServerOptions", "ServingError"]
