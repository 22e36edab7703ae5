"""How the balancers are measured: wrk for load, /proc for processor time and memory, plain sockets for idle clients."""

import http.client
import os
import re
import resource
import select
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .servers import LARGE, SMALL, Failure, verify

TICKS = os.sysconf("SC_CLK_TCK")
WARM_UP = 0.5  # seconds
FRESH_REQUESTS = 1000  # how many fresh requests make one latency figure of the idle mode
# wrk waits this long for a response; every response takes milliseconds, so a slower one is lost.
WRK_TIMEOUT = 5


@dataclass(frozen=True)
class Work:
    """One kind of load: one block of the report."""

    path: str
    connections: int
    new_connections: bool = False

    @property
    def title(self):
        size = {SMALL: "1 KiB", LARGE: "1 MiB"}[self.path]
        how = "a new connection for each request" if self.new_connections else "keep-alive"
        return f"{size} responses, {self.connections} connection{'s' * (self.connections > 1)}, {how}"


def processor_seconds(pids):
    """User and system time of whole processes, all their threads included."""
    user = system = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user, system = user + int(fields[11]), system + int(fields[12])
    return user / TICKS, system / TICKS


class OtherWork:
    """How much of the cores everything that is not part of a run takes: a compiler next door spoils its figures.

    Reckoned from the cores' idle time, so it includes the kernel's own work and the hypervisor's share.
    """

    def __init__(self, pids, cores):
        self.pids, self.cores = pids, cores
        self.begin = self.now()

    def now(self):
        # cpu user nice system idle iowait ...
        idle = sum(int(ticks) for ticks in Path("/proc/stat").read_text().split(maxsplit=6)[4:6]) / TICKS
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)  # wrk
        ours = sum(processor_seconds(self.pids)) + ended.ru_utime + ended.ru_stime + time.process_time()
        return time.monotonic(), idle + ours

    def share(self):
        """The share of all cores since this was made."""
        then, accounted = self.begin
        now, accounted_now = self.now()
        return max(0.0, 1 - (accounted_now - accounted) / ((now - then) * self.cores))


def kibibytes(path, key):
    found = re.search(rf"^{key}:\s+(\d+) kB", Path(path).read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def peak_mib(pids):
    return sum(kibibytes(f"/proc/{pid}/status", "VmHWM") for pid in pids) / 1024


def resident_bytes(pids):
    """Memory in use now as (PSS, RSS): PSS shares pages fairly among the processes that share them."""
    pss = rss = 0
    for pid in pids:
        try:
            pss += kibibytes(f"/proc/{pid}/smaps_rollup", "Pss")
            rss += kibibytes(f"/proc/{pid}/smaps_rollup", "Rss")
        except PermissionError:  # a process that changed its user: only its RSS can be read
            pss += kibibytes(f"/proc/{pid}/status", "VmRSS")
            rss += kibibytes(f"/proc/{pid}/status", "VmRSS")
    return pss * 1024, rss * 1024


def wrk_command(wrk, work, port, seconds, threads):
    threads = min(threads, work.connections)
    command = [wrk, f"-t{threads}", f"-c{work.connections}", f"-d{seconds}s", "--latency", f"--timeout={WRK_TIMEOUT}s"]
    if work.new_connections:
        command += ["-H", "Connection: close"]
    return [*command, f"http://127.0.0.1:{port}{work.path}"]


def run_wrk(command, seconds):
    """Runs wrk for a time; for less than wrk's own (whole seconds) by interrupting it. Returns what it printed."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        if seconds < 1:
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)
        return process.communicate(timeout=seconds + WRK_TIMEOUT + 10)[0]
    except subprocess.TimeoutExpired as error:
        raise Failure(f"wrk did not end in time: {' '.join(command)}") from error
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def milliseconds(text):
    """wrk's '812.00us', '1.23ms', '1.02s', '1.05m' as milliseconds."""
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m|h)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}[unit]


def parse_wrk(text):
    """What wrk printed, as numbers."""

    def found(pattern):
        match = re.search(pattern, text, re.MULTILINE)
        if match is None:
            raise Failure(f"wrk printed something unexpected:\n{text}")
        return match[1]

    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    statuses = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return {
        "requests": int(found(r"^\s*(\d+) requests in ")),
        "rate": float(found(r"^Requests/sec:\s+([\d.]+)")),
        "p50": milliseconds(found(r"^\s+50%\s+(\S+)")),
        "p99": milliseconds(found(r"^\s+99%\s+(\S+)")),
        "errors": sum(map(int, sockets.groups() if sockets else [])) + int(statuses[1] if statuses else 0),
    }


def measure_load(server, work, site, seconds, threads):
    """One measured run of one balancer."""
    try:
        verify(server.port, work.path, keep_alive=not work.new_connections)
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"{server.name} does not respond: {error}\n{server.tail()}") from error
    wrk = site.tools["wrk"]
    run_wrk(wrk_command(wrk, work, server.port, 10, threads), WARM_UP)
    pids = server.pids()
    others = OtherWork(pids + site.backends.pids(), os.cpu_count())
    before = processor_seconds(pids)
    output = run_wrk(wrk_command(wrk, work, server.port, seconds, threads), seconds)
    if server.process.poll() is not None or server.pids() != pids:
        raise Failure(f"{server.name}: a process ended or started under load\n{server.tail()}")
    after = processor_seconds(pids)
    result = parse_wrk(output) | {"others": others.share()}
    if result["requests"] == 0:
        raise Failure(f"{server.name} sent no response in {seconds} s\n{server.tail()}")
    user, system = ((now - then) * 1e6 / result["requests"] for then, now in zip(before, after, strict=True))
    return result | {"cpu": user + system, "cpu_user": user, "cpu_system": system, "memory": peak_mib(pids)}


def exchange(connection, path=SMALL):
    """One request and its whole response on an open connection."""
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    received = b""
    while b"\r\n\r\n" not in received:
        received += receive(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if not re.match(rb"HTTP/1\.[01] 200 ", head) or length is None:
        raise Failure(f"an unexpected response: {head[:200]!r}")
    missing = int(length[1]) - len(body)
    while missing > 0:
        missing -= len(receive(connection))


def receive(connection):
    data = connection.recv(65536)
    if not data:
        raise Failure("a connection was closed inside a response")
    return data


def connect(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def fresh_latencies(port):
    """Milliseconds of single requests, a connection for each, from connecting to the last byte; sorted."""
    found = []
    for _ in range(FRESH_REQUESTS):
        begin = time.perf_counter()
        with connect(port) as connection:
            exchange(connection)
        found.append((time.perf_counter() - begin) * 1000)
    return sorted(found)


def count_closed(connections):
    """How many of these idle connections the balancer has closed: only those have something to read."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN | select.POLLRDHUP)
    return len(poll.poll(0))


def measure_idle(server, count):
    """Opens idle keep-alive connections, each after one request, and looks at what they cost."""
    connections = []
    try:
        fresh_latencies(server.port)  # a warm-up: buffers and code that any work needs are not the idle ones' cost
        before = fresh_latencies(server.port)
        time.sleep(0.3)
        pids = server.pids()
        pss, rss = resident_bytes(pids)
        for _ in range(count):
            connections.append(connect(server.port))
            exchange(connections[-1])
        time.sleep(0.5)  # for what a balancer tidies up behind an exchange
        pss_now, rss_now = resident_bytes(pids)
        after = fresh_latencies(server.port)
        return {
            "pss": (pss_now - pss) / count,
            "rss": (rss_now - rss) / count,
            "rest": pss / 2**20,
            "before": median(before),
            "after": median(after),
            "before_p99": before[int(len(before) * 0.99)],
            "after_p99": after[int(len(after) * 0.99)],
            "closed": count_closed(connections),
        }
    except OSError as error:
        raise Failure(f"{server.name} after {len(connections)} idle connections: {error}\n{server.tail()}") from error
    finally:
        for connection in connections:
            connection.close()
