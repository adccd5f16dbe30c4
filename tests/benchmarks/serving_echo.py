"""A gRPC server that answers any request with so many bytes: what a request costs in gRPC for Python alone.

python tests/benchmarks/serving_echo.py BYTES
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

_METHOD = "/echo.Echo/Answer"


@contextmanager
def echo(size: int) -> Iterator[Callable]:
    """What sends bytes to such a server, in a process of its own, and gets so many back."""
    process = subprocess.Popen([sys.executable, __file__, str(size)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        with grpc.insecure_channel(f"127.0.0.1:{int(process.stdout.readline())}") as channel:
            yield channel.unary_unary(_METHOD)
    finally:
        process.terminate()
        process.wait(60)


def main() -> None:
    answer = bytes(int(sys.argv[1]))
    server = grpc.server(ThreadPoolExecutor(8))
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
    _, service, method = _METHOD.split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    gc.freeze()  # as the embedded server does
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
