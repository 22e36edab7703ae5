"""The servers of a comparison: the backends, and the balancers in front of them.

Everything listens on 127.0.0.1 on free ports, keeps its files in one temporary directory, and is ended by
process id. The configurations are meant to be the ones that a careful user of each program would write for
speed; benches/README.md lists the equal and the unequal parts.
"""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent.parent
BALANCERS = ("lb-threads", "nginx", "haproxy")
# Another lb-threads, to compare with.
BEFORE = "before"
SMALL, LARGE = "/small", "/large"
BODY_BYTES = {SMALL: 1024, LARGE: 1024 * 1024}
BACKENDS = 3
START_TIMEOUT = 10.0  # seconds until a server must respond
STOP_TIMEOUT = 3.0  # seconds between asking a server to end and ending it
FOREVER = 1_000_000_000  # "never close a kept-alive connection because of its number of requests"


class Failure(Exception):
    """Something that ends the comparison, with a text for the user."""


@dataclass
class Site:
    """What all servers of one run share."""

    directory: Path
    cores: int
    open_files: int
    tools: dict = field(default_factory=dict)
    backends: "Server | None" = None

    @property
    def connections(self):
        """How many clients a balancer must be able to hold: each may cost it two descriptors."""
        return max(256, min(65536, (self.open_files - 256) // 2))

    @property
    def nginx_user(self):
        # As root, nginx's workers would change to a user who may not enter our temporary directory.
        return "user root;" if os.geteuid() == 0 else ""


def find_tool(name):
    """The path of a program, also from the directories that only root has in its PATH."""
    places = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return shutil.which(name, path=os.pathsep.join([*places, "/usr/local/sbin", "/usr/sbin", "/sbin"]))


def build_binary():
    """Builds lb-threads and asks cargo where it went (CARGO_TARGET_DIR and cargo's configuration count)."""
    cargo = find_tool("cargo")
    if cargo is None:
        raise Failure("cargo was not found: install Rust, or name a built program with --binary")
    if not (REPO / "Cargo.toml").exists():
        raise Failure("there is no Cargo.toml beside benches/: name a built program with --binary")
    if subprocess.run([cargo, "build", "--release", "--bin", "lb-threads"], cwd=REPO).returncode != 0:
        raise Failure("cargo build --release failed: see above")
    metadata = subprocess.run(
        [cargo, "metadata", "--format-version", "1", "--no-deps"], cwd=REPO, capture_output=True, text=True
    )
    if metadata.returncode != 0:
        raise Failure(f"cargo metadata failed: {metadata.stderr.strip()}")
    return str(Path(json.loads(metadata.stdout)["target_directory"]) / "release" / "lb-threads")


def version_of(name, path):
    """The version printed by a program, for the report."""
    flag = "--version" if name in ("lb-threads", BEFORE) else "-v"
    try:
        output = subprocess.run([path, flag], capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    found = re.search(r"\d+\.\d+\S*", output.stdout + output.stderr)
    return found[0] if found else "unknown"


def free_ports(count):
    """Ports without a listener. All are held until all are found, so that they differ."""
    held = []
    try:
        for _ in range(count):
            held.append(socket.create_server(("127.0.0.1", 0)))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def session_members(leader):
    """The ids of all processes in a session: what a server started stays in it, even if its parent dies."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue  # it ended meanwhile
            # The name in parentheses may contain anything: the fields begin behind the last one.
            if int(stat.rpartition(")")[2].split()[3]) == leader:
                found.append(int(entry))
    return sorted(found)


class Server:
    """One started program with its descendants."""

    def __init__(self, name, command, ports, log):
        self.name, self.ports, self.log = name, ports, log
        with open(log, "wb") as sink:
            # A session of its own: Ctrl-C reaches this script only, which then ends the servers in order.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True, cwd=log.parent
            )

    @property
    def port(self):
        return self.ports[0]

    def pids(self):
        return session_members(self.process.pid)

    def tail(self):
        """The end of the server's output, for an error message."""
        files = [self.log, self.log.with_suffix(".error")]
        lines = [line for file in files if file.exists() for line in file.read_text(errors="replace").splitlines()]
        return "\n".join(f"    {line}" for line in lines[-8:]) or "    (no output)"

    def wait_until_ready(self):
        deadline = time.monotonic() + START_TIMEOUT
        for port in self.ports:
            while True:
                if self.process.poll() is not None:
                    raise Failure(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
                try:
                    verify(port, SMALL, keep_alive=True)
                    break
                except (OSError, http.client.HTTPException, Failure) as error:
                    if time.monotonic() > deadline:
                        raise Failure(
                            f"{self.name} does not respond as it should after {START_TIMEOUT:.0f} s: {error}\n{self.tail()}"
                        ) from error
                    time.sleep(0.05)

    def stop(self):
        """Ends the program and whatever it started."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            pass
        for pid in self.pids():  # usually none: only processes that ignored the signal
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()


def verify(port, path, keep_alive):
    """One real request each way that will be measured; raises if the response is not the one that wrk shall count."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        for _ in range(2 if keep_alive else 1):
            connection.request("GET", path, headers={} if keep_alive else {"Connection": "close"})
            response = connection.getresponse()
            size = len(response.read())
            if response.status != 200 or size != BODY_BYTES[path]:
                raise Failure(f"GET {path}: {response.status} with {size} bytes, not 200 with {BODY_BYTES[path]}")
            if keep_alive and connection.sock is None:
                raise Failure(f"GET {path}: the connection was closed, so keep-alive cannot be measured")
    finally:
        connection.close()


def start(name, make_command, site, ports=1):
    """Starts a server on free ports. Another process may take a port between finding and binding: so a few attempts."""
    for attempt in (1, 2, 3):
        taken = free_ports(ports)
        log = site.directory / f"{name}.log"
        server = Server(name, make_command(site, taken), taken, log)
        try:
            server.wait_until_ready()
            return server
        except BaseException as error:
            server.stop()
            if not isinstance(error, Failure) or attempt == 3:
                raise
    raise AssertionError("unreachable")


def start_backends(site):
    """One nginx that plays all backends: cheap, so that the balancers are what is measured."""
    large = site.directory / "www" / LARGE.lstrip("/")
    large.parent.mkdir()
    large.write_bytes(b"x" * BODY_BYTES[LARGE])
    return start("backends", backends_command, site, ports=BACKENDS)


def start_balancer(name, site):
    makers = {"nginx": nginx_command, "haproxy": haproxy_command}
    ours = partial(lb_threads_command, name)
    return start(name, makers.get(name, ours), site)


def nginx_files(site, name):
    """The lines every nginx needs to keep its files in our directory and to run as any user."""
    temp = "".join(
        f"    {kind}_temp_path {site.directory}/{name}-{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    head = (
        f"{site.nginx_user}\ndaemon off;\npid {site.directory}/{name}.pid;\n"
        f"error_log {site.directory}/{name}.error error;\nworker_rlimit_nofile {site.open_files};\n"
    )
    return head, temp


def nginx_with(site, name, text):
    config = site.directory / f"{name}.conf"
    config.write_text(text)
    # -e: or nginx first tries the log of the system's configuration, which an ordinary user may not write.
    error_log = str(site.directory / f"{name}.error")
    return [site.tools["nginx"], "-e", error_log, "-p", str(site.directory), "-c", str(config)]


def backends_command(site, ports):
    """1 KiB comes from memory, 1 MiB by sendfile. Half of the cores: the balancers need the others."""
    head, temp = nginx_files(site, "backends")
    listens = "".join(f"        listen 127.0.0.1:{port} backlog=4096;\n" for port in ports)
    text = f"""{head}worker_processes {max(1, site.cores // 2)};
events {{ worker_connections {site.connections}; }}
http {{
{temp}    access_log off;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=16;
    keepalive_requests {FOREVER};
    keepalive_timeout 300s;
    default_type application/octet-stream;
    server {{
{listens}        root {site.directory}/www;
        location = /health {{ return 200 "ok"; }}
        location = {SMALL} {{ return 200 "{'x' * BODY_BYTES[SMALL]}"; }}
    }}
}}
"""
    return nginx_with(site, "backends", text)


def nginx_command(site, ports):
    head, temp = nginx_files(site, "nginx")
    backends = "".join(f"        server 127.0.0.1:{port};\n" for port in site.backends.ports)
    # proxy_buffering stays on, nginx's default, but never to disk: the others do not write files either.
    # reuseport: a listening socket per worker, without which all workers wake for one new connection.
    text = f"""{head}worker_processes {site.cores};
events {{ worker_connections {site.connections}; }}
http {{
{temp}    access_log off;
    keepalive_requests {FOREVER};
    keepalive_timeout 300s;
    upstream backends {{
{backends}        keepalive 512;
        keepalive_requests {FOREVER};
        keepalive_timeout 300s;
    }}
    server {{
        listen 127.0.0.1:{ports[0]} backlog=4096 reuseport;
        location / {{
            proxy_pass http://backends;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_max_temp_file_size 0;
        }}
    }}
}}
"""
    return nginx_with(site, "nginx", text)


def haproxy_command(site, ports):
    servers = "".join(f"    server s{index} 127.0.0.1:{port}\n" for index, port in enumerate(site.backends.ports))
    # No log line and no `check`: HAProxy then neither logs nor checks.
    # maxconn leaves descriptors for HAProxy itself: it counts two a connection, and its own on top.
    text = f"""global
    nbthread {site.cores}
    maxconn {site.connections - 64}
defaults
    mode http
    balance roundrobin
    http-reuse always
    timeout connect 5s
    timeout client 300s
    timeout server 60s
    timeout http-keep-alive 300s
    maxconn {site.connections - 64}
listen balancer
    bind 127.0.0.1:{ports[0]} backlog 4096
{servers}"""
    config = site.directory / "haproxy.cfg"
    config.write_text(text)
    return [site.tools["haproxy"], "-db", "-f", str(config)]


def lb_threads_command(name, site, ports):
    backends = [word for port in site.backends.ports for word in ("-b", f"127.0.0.1:{port}")]
    listen = ["--host", "127.0.0.1", "--port", str(ports[0])]
    return [site.tools[name], "10", *listen, *backends, "--admin", "off", "--log-level", "error"]
