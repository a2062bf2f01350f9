"""A Prefect server on this machine only, with its state in one folder; it sends no data to other machines.

`up` runs a server in the foreground with the deployments. `reporting` finds one on the usual port, or starts a temporary
one with the same database, so that a flow started from the command line appears in the same history. Enter either before
prefect is imported, because prefect reads its settings on import.
"""

import asyncio
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas import UserError

HOST, PORT = "127.0.0.1", 4200
START_SECONDS, STOP_SECONDS = 90, 10


def home() -> Path:
    """The folder with Prefect's state: REVAL_HOME, or `.prefect` in the present folder, as in pyproject.toml."""
    return Path(os.environ.get("REVAL_HOME", ".prefect")).resolve()


def environment(port: int) -> dict[str, str]:
    """Prefect's settings as environment variables, which have priority over every settings file."""
    state = home()
    return {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_HOME": str(state),
        # These do not follow PREFECT_HOME in prefect 3.7.7.
        "PREFECT_SERVER_MEMO_STORE_PATH": str(state / "memo_store.toml"),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(state / "storage"),
        "PREFECT_LOGGING_CONFIG_PATH": str(state / "logging.yml"),
        "PREFECT_PROFILES_PATH": str(state / "profiles.toml"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{state}/prefect.db",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "reval",
    }


def server_version(port: int) -> str | None:
    """The version of the Prefect server that answers on the port; None: no server does."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy for loopback
    try:
        with opener.open(f"http://{HOST}:{port}/api/health", timeout=1) as answer:
            if json.load(answer) is not True:
                return None
        with opener.open(f"http://{HOST}:{port}/api/admin/version", timeout=1) as answer:
            return str(json.load(answer))
    except (OSError, ValueError):
        return None


def check_port(port: int) -> None:
    """Raises:
    UserError: the port is taken; the message says by what, and how to go on.
    """
    if (version := server_version(port)) is not None:
        raise UserError(
            f"port {port}: a Prefect server {version} answers there already; use it, or choose another --port"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise UserError(
                f"port {port} cannot be used ({reason}); stop what holds it, or choose another --port"
            ) from None


@contextmanager
def server(port: int) -> Iterator[None]:
    """Runs a Prefect server inside this context. On Linux it ends with this process, however this process ends."""
    log = home() / "server.log"
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "server", "start", "--host", HOST, "--port", str(port)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, "--analytics-off"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment(port)},
            start_new_session=True,  # Ctrl-C must not reach it, because it is stopped last
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while server_version(port) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"the Prefect server did not start on port {port}; its output is in {log}")
            time.sleep(0.1)
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # stops uvicorn in order
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _port_told() -> int:
    """The port of PREFECT_API_URL, which `reval up --port` tells the user to export; if it is not set, the usual one."""
    found = re.fullmatch(rf"http://{re.escape(HOST)}:(\d+)/api", os.environ.get("PREFECT_API_URL", ""))
    return int(found[1]) if found else PORT


@contextmanager
def reporting() -> Iterator[None]:
    """Makes flows of this process report to the server of `reval up`, or to a temporary one with the same database."""
    port = _port_told()
    # The server gets every line; the terminal only reval's own, and the caller the error that ends a flow.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    if server_version(port) is not None:
        os.environ.update(environment(port))
        with _delivering(port):
            yield
        return
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    with server(port):
        os.environ.update(environment(port))
        with _delivering(port):
            yield


# Set if the server was gone at the end of a flow: Prefect would then try to reach it for minutes at exit.
gone = threading.Event()


@contextmanager
def _delivering(port: int) -> Iterator[None]:
    """Makes Prefect send its waiting events and log lines before the server can stop."""
    try:
        yield
    finally:
        if server_version(port) is None:
            gone.set()
        elif "prefect" in sys.modules:
            from prefect.events.worker import EventsWorker
            from prefect.logging.handlers import APILogHandler

            EventsWorker.drain_all()
            APILogHandler().flush()


def up(port: int, ready: Callable[[str], None]) -> None:
    """Serves the deployments until Ctrl-C or SIGTERM, which stop them and the server.

    Args:
        ready: called with the UI's address once deployments can be run.

    Raises:
        UserError: the port is taken.
    """
    check_port(port)
    os.environ.update(environment(port))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)  # until the runner handles it
    try:
        with server(port):
            asyncio.run(_serve(lambda: ready(f"http://{HOST}:{port}")))
    except KeyboardInterrupt:
        pass


async def _serve(ready: Callable[[], None]) -> None:
    """`prefect.serve` with an orderly stop.

    If prefect 3.7.7's serve() gets a signal during a run, it kills the run's process, prints a traceback and leaves the
    run in state Running for ever. Runner.astop cancels the run instead, so that the flow can stop its own children.
    """
    from prefect.deployments.runner import EntrypointType
    from prefect.logging.handlers import APILogHandler
    from prefect.runner import Runner

    from flows.iterate import iterate
    from flows.retrain import retrain

    runner = Runner(name="reval", query_seconds=2)
    for flow in (iterate, retrain):
        # By module: the default, by file, needs the project's folder as the working directory.
        deployment = flow.to_deployment(flow.fn.__name__, entrypoint_type=EntrypointType.MODULE_PATH)
        await runner.add_deployment(await deployment)  # type: ignore[misc]
    serving = asyncio.create_task(runner.start())
    while not runner.started and not serving.done():
        await asyncio.sleep(0.05)  # wait: it first sets a signal handler of its own
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ready()
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        await runner.astop()
    stopping.cancel()
    try:
        await serving
    finally:
        await APILogHandler.aflush()
