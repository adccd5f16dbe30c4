"""A gRPC server that answers any request with so many bytes: what a request costs in gRPC for Python alone.

python tests/benchmarks/serving_echo.py BYTES
"""

import gc
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

METHOD = "/echo.Echo/Answer"


def main() -> None:
    answer = bytes(int(sys.argv[1]))
    server = grpc.server(ThreadPoolExecutor(8))
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
    _, service, method = METHOD.split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    gc.freeze()  # as the embedded server does
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
