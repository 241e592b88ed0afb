"""Worker processes of `--direct_running_mode=multi_processing`, whose death is detected.

Beam 2.77 waits forever for the answer of a killed worker. Its handler of Docker workers fails the pending requests when
the container is gone; this one does the same for processes.
"""

import contextlib
import threading
from collections.abc import Iterator

import grpc
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import (
    ControlFuture,
    SubprocessSdkWorkerHandler,
    WorkerHandler,
)
from apache_beam.runners.portability.local_job_service import SubprocessSdkWorker

KILLED = "a worker process was killed (out of memory?); run the same command again, it resumes"


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Within it, Beam's local runner starts its worker processes through `WatchedWorker`."""
    handlers, hook = WorkerHandler._registered_environments, threading.excepthook
    handler = handlers[python_urns.SUBPROCESS_SDK]
    handlers[python_urns.SUBPROCESS_SDK] = (WatchedWorker, bytes)

    def quiet(args: threading.ExceptHookArgs) -> None:
        # Each of Beam's threads that read from a killed worker would print a traceback.
        if not issubclass(args.exc_type, grpc.RpcError):
            hook(args)

    threading.excepthook = quiet
    try:
        yield
    finally:
        handlers[python_urns.SUBPROCESS_SDK] = handler
        threading.excepthook = hook


class WatchedWorker(SubprocessSdkWorkerHandler):
    """A worker process; if it dies, all requests to it fail with the sentence `KILLED`."""

    def start_worker(self) -> None:
        """Starts the process and a thread that waits for its end."""
        self.worker = SubprocessSdkWorker(
            self._worker_command_line, self.control_address, self.provision_info, self.worker_id
        )
        self.worker_thread = threading.Thread(name="run_worker", target=self._work)
        self.worker_thread.start()

    def _work(self) -> None:
        try:
            self.worker.run()
        except RuntimeError:
            # First future requests, then those that are pending.
            self.control_conn.push = self._fail
            asked = self.control_conn._futures_by_id
            for instruction in list(asked):
                if future := asked.pop(instruction, None):
                    future.set(_failure(instruction))

    def _fail(self, request: object) -> ControlFuture | None:
        if isinstance(request, beam_fn_api_pb2.InstructionRequest):
            return ControlFuture(request.instruction_id, _failure(request.instruction_id))
        # Beam's mark of the last request, by which it closes the connection.
        self.control_conn._push_queue.put(request)
        return None


def _failure(instruction: str) -> beam_fn_api_pb2.InstructionResponse:
    return beam_fn_api_pb2.InstructionResponse(instruction_id=instruction, error=f"\nUserError: {KILLED}")
