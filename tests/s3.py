"""A real S3 API on loopback, which can be away for a while and keeps what it has."""

import contextlib
import logging
import socket

from moto.server import ThreadedMotoServer
from pyarrow import fs

HOST = "127.0.0.1"
BUCKET = "bucket"


class S3:
    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._serve(0)
        self.address = f"{HOST}:{self._server.get_host_and_port()[1]}"
        self.files.create_dir(BUCKET)

    @property
    def files(self) -> fs.S3FileSystem:
        return fs.S3FileSystem(endpoint_override=self.address, scheme="http", allow_bucket_creation=True)

    def uri(self, prefix: str) -> str:
        return f"s3://{BUCKET}/{prefix}?endpoint_override={self.address}&scheme=http"

    def stop(self) -> None:
        """Answer nobody any more, on connections that are open neither."""
        self._server.stop()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def start(self) -> None:
        self._serve(int(self.address.rpartition(":")[2]))

    def _serve(self, port: int) -> None:
        self._server = ThreadedMotoServer(HOST, port, verbose=False)
        self._server.start()
        self._connections: list[socket.socket] = []
        server = self._server._server
        process = server.process_request

        def noting(connection, client):
            self._connections.append(connection)
            process(connection, client)

        server.process_request = noting
