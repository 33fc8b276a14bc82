"""A real S3 API on loopback, which can be away for a while and keeps what it has."""

import logging

from moto.server import ThreadedMotoServer
from pyarrow import fs

HOST = "127.0.0.1"
BUCKET = "bucket"


class S3:
    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(HOST, 0, verbose=False)
        self._server.start()
        self.address = f"{HOST}:{self._server.get_host_and_port()[1]}"
        self.files.create_dir(BUCKET)

    @property
    def files(self) -> fs.S3FileSystem:
        return fs.S3FileSystem(endpoint_override=self.address, scheme="http", allow_bucket_creation=True)

    def uri(self, prefix: str) -> str:
        return f"s3://{BUCKET}/{prefix}?endpoint_override={self.address}&scheme=http"

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server = ThreadedMotoServer(HOST, int(self.address.rpartition(":")[2]), verbose=False)
        self._server.start()

    def damage(self, key: str, position: int = -3) -> None:
        """Flip a bit of an object."""
        with self.files.open_input_file(f"{BUCKET}/{key}") as file:
            content = bytearray(file.read())
        content[position] ^= 0x10
        with self.files.open_output_stream(f"{BUCKET}/{key}") as file:
            file.write(bytes(content))
