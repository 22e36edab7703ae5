//! A backend's handling of a connection: it reads requests strictly, executes them, and responds by
//! its fault rate.

use super::backend_connection::{Connection, Gone};
use super::faults::{Fault, FaultRate};
use super::http::{Body, Head};
use super::ledger::Ledger;
use super::plan::{Key, Manner, Method, Pattern, Plan, Shape};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// Ends a response's head: the connection stays, or is closed with the body's last byte.
const KEEP: &str = "";
const CLOSE: &str = "Connection: close\r\n";

const GARBAGE: [&[u8]; 5] = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"HTTP/1.1 2OO OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
    b"HTTP/1.1 200 OK\r\nContent Length: 2\r\n\r\nok",
];

/// Serves one connection at a time. Each serving thread has its own.
pub struct Server {
    ledger: Arc<Ledger>,
    fault_rate: Arc<FaultRate>,
    rng: fastrand::Rng,
    out: Vec<u8>,
}

/// A validated request head.
enum Asked {
    Health,
    Request(Plan, Option<Body>),
}

impl Server {
    pub fn new(ledger: Arc<Ledger>, fault_rate: Arc<FaultRate>) -> Self {
        Self { ledger, fault_rate, rng: fastrand::Rng::new(), out: Vec::new() }
    }

    /// Serves a connection to its end.
    pub fn serve(&mut self, mut connection: Connection) {
        while self.serve_request(&mut connection).is_ok() {}
    }

    fn serve_request(&mut self, connection: &mut Connection) -> Result<(), Gone> {
        connection.end();
        let head_len = loop {
            match connection.inbox.head_len() {
                Some(len) => break len,
                None => connection.receive()?,
            }
        };
        let asked = self.check_head(&connection.inbox.bytes()[..head_len]);
        connection.inbox.consume(head_len);
        match asked {
            Ok(Asked::Health) => self.respond_to_check(connection),
            Ok(Asked::Request(plan, body)) => {
                self.ledger.saw(plan.key);
                connection.begin(plan.key);
                self.serve_plan(connection, &plan, body)
            }
            Err(what) => {
                self.ledger.violate("wrong request at a backend", &what);
                Err(connection.reset())
            }
        }
    }

    /// Whether the client sent this under this key.
    fn check_head(&self, head: &[u8]) -> Result<Asked, String> {
        let head = Head::parse(head)?;
        let mut words = head.start_line.split(' ');
        let (method, target, version) =
            (words.next(), words.next().unwrap_or_default(), words.next());
        if (method, target, version) == (Some("GET"), "/health", Some("HTTP/1.1")) {
            return Ok(Asked::Health);
        }
        let key: Option<Key> = target.strip_prefix("/key/").and_then(|key| key.parse().ok());
        let key = key
            .filter(|key| self.ledger.contains(*key))
            .ok_or_else(|| format!("no client sent {:?}", head.start_line))?;
        let plan = Plan::of(self.ledger.seed, key);
        let is_its_own = method == Some(plan.method_name())
            && version == Some("HTTP/1.1")
            && head.number("X-Key")? == Some(u64::from(key))
            && head.field("Upgrade")?.is_some() == (plan.manner == Manner::Upgrade);
        if is_its_own {
            Ok(Asked::Request(plan, head.body()?))
        } else {
            Err(format!("{:?} is not {plan:?}", head.start_line))
        }
    }

    fn respond_to_check(&mut self, connection: &mut Connection) -> Result<(), Gone> {
        let status =
            if self.fault_rate.fails_checks() { "500 Internal Server Error" } else { "200 OK" };
        connection.send(
            format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                .as_bytes(),
        )?;
        Err(Gone::Closed)
    }

    fn serve_plan(
        &mut self,
        connection: &mut Connection,
        plan: &Plan,
        body: Option<Body>,
    ) -> Result<(), Gone> {
        let has_body = plan.upload_bytes() > 0;
        let fault =
            self.fault_rate.draw(&mut self.rng).filter(|fault| *fault != Fault::Early || has_body);
        match fault {
            Some(Fault::ResetInRequest) => {
                connection.meet(Fault::ResetInRequest);
                return Err(connection.reset());
            }
            Some(Fault::Early) => return self.respond_early(connection, plan, body),
            _ => {}
        }
        self.read_body(connection, plan, body)?;
        self.ledger.executed(plan);
        if plan.manner == Manner::Upgrade && fault.is_none() {
            return self.echo(connection, plan);
        }
        self.out.clear();
        self.respond(connection, plan, fault)
    }

    fn read_body(
        &self,
        connection: &mut Connection,
        plan: &Plan,
        body: Option<Body>,
    ) -> Result<(), Gone> {
        let pattern = Pattern::of_request(plan);
        let Some(mut body) = body else {
            if plan.upload_bytes() > 0 {
                self.ledger.violate("wrong request at a backend", &format!("no body: {plan:?}"));
            }
            return Ok(());
        };
        loop {
            match body.read(&mut connection.inbox, |at, bytes| pattern.matches(at, bytes)) {
                Ok(true) if body.at == plan.upload_bytes() => return Ok(()),
                Ok(false) => connection.receive()?,
                wrong => {
                    let what = format!("{:?} bytes of body, {:?}: {plan:?}", body.at, wrong.err());
                    self.ledger.violate("wrong request at a backend", &what);
                    return Err(connection.reset());
                }
            }
        }
    }

    /// Responds when only the head, and perhaps a piece of the body, has come; the rest is read, or
    /// not.
    fn respond_early(
        &mut self,
        connection: &mut Connection,
        plan: &Plan,
        body: Option<Body>,
    ) -> Result<(), Gone> {
        connection.meet(Fault::Early);
        self.ledger.executed(plan);
        let (status, goes_on) = (if self.rng.bool() { 413 } else { 200 }, self.rng.u8(..4));
        self.out.clear();
        self.write_head(plan, status, Shape::Length, if goes_on == 0 { KEEP } else { CLOSE });
        Pattern::of_response(plan).append(&mut self.out, plan.size);
        connection.send(&self.out)?;
        if goes_on == 3 {
            return Err(Gone::Closed);
        }
        self.read_body(connection, plan, body)?;
        if goes_on == 0 { Ok(()) } else { Err(Gone::Closed) }
    }

    /// Responds to a complete request.
    fn respond(
        &mut self,
        connection: &mut Connection,
        plan: &Plan,
        fault: Option<Fault>,
    ) -> Result<(), Gone> {
        if let Some(fault) = fault {
            connection.meet(fault);
        }
        let status = match fault {
            Some(Fault::Error) => [404, 500][self.rng.usize(..2)],
            _ => 200,
        };
        // A close-delimited response looks complete after any orderly close.
        let shape = if fault == Some(Fault::Truncate) && plan.shape == Shape::ToEnd {
            Shape::Chunked
        } else {
            plan.shape
        };
        let head_len = self.write_response(plan, status, shape);
        let in_head = 1 + self.rng.usize(..head_len - 1);
        let in_body = head_len + self.rng.usize(..=(self.out.len() - head_len).saturating_sub(1));
        match fault {
            Some(Fault::CloseBeforeResponse) => return Err(Gone::Closed),
            Some(Fault::Garbage) => {
                connection.send(GARBAGE[self.rng.usize(..GARBAGE.len())])?;
                return Err(Gone::Closed);
            }
            Some(Fault::PartialHead | Fault::ResetInHead) => {
                connection.send(&self.out[..in_head])?;
            }
            Some(Fault::Truncate | Fault::ResetInBody) => connection.send(&self.out[..in_body])?,
            Some(Fault::Trickle) => self.trickle(connection)?,
            _ => connection.send(&self.out)?,
        }
        match fault {
            Some(Fault::ResetInHead | Fault::ResetInBody) => Err(connection.reset()),
            Some(Fault::PartialHead | Fault::Truncate) => Err(Gone::Closed),
            Some(Fault::CloseIdle) => {
                connection.end();
                connection.rest(Duration::from_micros(self.rng.u64(..6000)))?;
                Err(Gone::Closed)
            }
            _ if plan.shape == Shape::ToEnd => Err(Gone::Closed),
            _ => Ok(()),
        }
    }

    /// The response with its body; returns the length of its head.
    fn write_response(&mut self, plan: &Plan, status: u16, shape: Shape) -> usize {
        let head_len =
            self.write_head(plan, status, shape, if shape == Shape::ToEnd { CLOSE } else { KEEP });
        let body = Pattern::of_response(plan);
        match shape {
            _ if plan.method == Method::Head => {}
            Shape::Chunked => body.append_chunked(&mut self.out, plan.size),
            Shape::Length | Shape::ToEnd => body.append(&mut self.out, plan.size),
        }
        head_len
    }

    fn write_head(&mut self, plan: &Plan, status: u16, shape: Shape, connection: &str) -> usize {
        let key = plan.key;
        let framing = match shape {
            Shape::Length => format!("Content-Length: {}\r\n", plan.size),
            Shape::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            Shape::ToEnd => String::new(),
        };
        write!(self.out, "HTTP/1.1 {status} Scripted\r\nX-Key: {key}\r\n{framing}{connection}\r\n")
            .expect("a vector takes every write");
        self.out.len()
    }

    /// About a second in all, and never more than a tenth of it without a byte once the head has
    /// begun.
    fn trickle(&mut self, connection: &mut Connection) -> Result<(), Gone> {
        connection.rest(Duration::from_millis(self.rng.u64(..400)))?;
        for piece in self.out.chunks(self.out.len().div_ceil(10)) {
            connection.send(piece)?;
            connection.rest(Duration::from_millis(self.rng.u64(..80)))?;
        }
        Ok(())
    }

    /// Switches protocols and echoes all input.
    fn echo(&mut self, connection: &mut Connection, plan: &Plan) -> Result<(), Gone> {
        let key = plan.key;
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nX-Key: {key}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        );
        connection.send(head.as_bytes())?;
        loop {
            self.out.clear();
            self.out.extend_from_slice(connection.inbox.bytes());
            connection.inbox.consume(self.out.len());
            connection.send(&self.out)?;
            connection.receive()?;
        }
    }
}
