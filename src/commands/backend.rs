//! `lb-threads backend`: a demo backend that responds to every path with its name, with optional
//! failures and delays.
//!
//! Runs on one thread per connection: for demonstrations and tests, not for load.

use super::serve;
use crate::cli::BackendArgs;
use crate::config;
use httparse::Status;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// The largest request head, in bytes.
const HEAD_BYTES: usize = 64 * 1024;
/// The most fields in a request head: the balancer's limit, and as many that it may add.
const HEAD_FIELDS: usize = 2 * config::MAX_HEAD_FIELDS;
/// The time for which a connection may be idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The backend's name, settings and count of requests.
struct Backend {
    name: String,
    failure_rate: f64,
    latency: (Duration, Duration),
    served: AtomicU64,
}

/// Serves until the process is ended.
pub fn run(args: &BackendArgs) -> ExitCode {
    let listener = match TcpListener::bind((args.host.as_str(), args.port)) {
        Ok(listener) => listener,
        Err(error) => {
            let message = format!(
                "cannot listen on {}:{}: {error}; choose another with --port",
                args.host, args.port
            );
            return serve::fail(None, &message, serve::START_FAILED);
        }
    };
    let Ok(address) = listener.local_addr() else {
        return serve::fail(None, "the listening socket has no address", serve::START_FAILED);
    };
    if args.max_latency < args.min_latency && !args.max_latency.is_zero() {
        return serve::fail(None, "MAX_LATENCY is less than MIN_LATENCY; swap them", 2);
    }
    let backend = Arc::new(Backend {
        name: args.id.clone().unwrap_or_else(|| address.port().to_string()),
        failure_rate: args.failure_rate,
        latency: (args.min_latency, args.max_latency.max(args.min_latency)),
        served: AtomicU64::new(0),
    });
    if args.until_stdin_ends {
        thread::spawn(|| {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            std::process::exit(0);
        });
    }
    // A closed standard output does not end the backend.
    let _ = writeln!(io::stdout(), "backend {} on http://{address}", backend.name);
    accept(&listener, &backend);
    ExitCode::SUCCESS
}

fn accept(listener: &TcpListener, backend: &Arc<Backend>) {
    for connection in listener.incoming() {
        let Ok(connection) = connection else {
            // Most likely out of descriptors: a pause lets some connections end.
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        let backend = Arc::clone(backend);
        let started = thread::Builder::new().spawn(move || {
            // A client that closes early ends its own connection only.
            let _ = serve_connection(connection, &backend);
        });
        if let Err(error) = started {
            let _ = writeln!(io::stderr(), "cannot start a thread for a connection: {error}");
        }
    }
}

/// The parts of a request that the response needs.
struct Request {
    line: String,
    host: String,
    forwarded_for: String,
    is_head: bool,
    is_health: bool,
    keeps_alive: bool,
    body: Body,
}

enum Body {
    Length(u64),
    Chunked,
}

fn serve_connection(mut connection: TcpStream, backend: &Backend) -> io::Result<()> {
    connection.set_read_timeout(Some(IDLE_TIMEOUT))?;
    connection.set_nodelay(true)?;
    let mut pending = Vec::new();
    while let Some(request) = read_head(&mut connection, &mut pending)? {
        let body = match request.body {
            Body::Length(length) => skip(&mut connection, &mut pending, length)?,
            // Chunks are not parsed, so the connection closes after the response.
            Body::Chunked => 0,
        };
        let keeps_alive = request.keeps_alive && matches!(request.body, Body::Length(_));
        connection.write_all(&response(backend, &request, body, keeps_alive))?;
        if !keeps_alive {
            connection.shutdown(std::net::Shutdown::Write)?;
            io::copy(&mut connection, &mut io::sink())?;
            return Ok(());
        }
    }
    Ok(())
}

/// Reads the next head; none at the end of the connection.
fn read_head(connection: &mut TcpStream, pending: &mut Vec<u8>) -> io::Result<Option<Request>> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; HEAD_FIELDS];
        let mut head = httparse::Request::new(&mut fields);
        if let Status::Complete(length) = head.parse(pending).map_err(io::Error::other)? {
            let request = request(&head);
            pending.drain(..length);
            return Ok(Some(request));
        }
        let mut block = [0_u8; 4096];
        let count = connection.read(&mut block)?;
        if count == 0 {
            return Ok(None);
        }
        pending.extend_from_slice(&block[..count]);
        if pending.len() > HEAD_BYTES {
            return Err(io::Error::other("the head is too large"));
        }
    }
}

fn request(head: &httparse::Request<'_, '_>) -> Request {
    let field = |name: &str| {
        let found = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        found.map(|field| String::from_utf8_lossy(field.value).into_owned())
    };
    let (method, path) = (head.method.unwrap_or_default(), head.path.unwrap_or_default());
    let connection = field("connection").unwrap_or_default().to_ascii_lowercase();
    let is_http11 = head.version == Some(1);
    Request {
        line: format!("{method} {path}"),
        host: field("host").unwrap_or_else(|| "-".to_owned()),
        forwarded_for: field("x-forwarded-for").unwrap_or_else(|| "-".to_owned()),
        is_head: method == "HEAD",
        is_health: path.split('?').next() == Some("/health"),
        keeps_alive: if is_http11 {
            !connection.contains("close")
        } else {
            connection.contains("keep-alive")
        },
        body: match field("transfer-encoding") {
            Some(_) => Body::Chunked,
            None => Body::Length(
                field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0),
            ),
        },
    }
}

/// Discards a body and returns its length.
fn skip(connection: &mut TcpStream, pending: &mut Vec<u8>, length: u64) -> io::Result<u64> {
    let received = pending.len().min(usize::try_from(length).unwrap_or(usize::MAX));
    pending.drain(..received);
    let rest = length - received as u64;
    let read = io::copy(&mut connection.take(rest), &mut io::sink())?;
    if read < rest { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(length) }
}

fn response(backend: &Backend, request: &Request, body: u64, keeps_alive: bool) -> Vec<u8> {
    let number = backend.served.fetch_add(u64::from(!request.is_health), Relaxed) + 1;
    let fails = !request.is_health && fastrand::f64() < backend.failure_rate;
    if !request.is_health {
        let (min, max) = backend.latency;
        thread::sleep(min + (max - min).mul_f64(fastrand::f64()));
    }
    let (status, text) = match (request.is_health, fails) {
        (true, _) => (200, "ok\n".to_owned()),
        (false, true) => {
            (500, format!("backend {} fails on purpose (FAILURE_RATE)\n", backend.name))
        }
        (false, false) => (
            200,
            format!(
                "Hello from backend {}!\n\n  request   {} (number {number} here)\n  host      {}\n  client    {}\n  body      {body} bytes\n",
                backend.name, request.line, request.host, request.forwarded_for
            ),
        ),
    };
    let phrase = if status == 200 { "OK" } else { "Internal Server Error" };
    let connection = if keeps_alive { "keep-alive" } else { "close" };
    let head = format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\nX-Backend: {}\r\nContent-Length: {}\r\n\
         Connection: {connection}\r\n\r\n",
        backend.name,
        text.len()
    );
    let text = if request.is_head { "" } else { &text };
    [head.as_bytes(), text.as_bytes()].concat()
}
