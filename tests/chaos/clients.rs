//! The clients: a fixed number of threads, each with one connection at a time, which send requests
//! without end and check every response.

use super::client_connection::{Connection, Idle, Reply};
use super::faults::Weather;
use super::ledger::{Ledger, Outcome};
use super::plan::{Manner, Plan};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const STACK: usize = 256 * 1024;
/// Between two connects while no balancer runs.
const NEXT_CONNECT: Duration = Duration::from_millis(5);

/// The state shared by clients and scenario.
pub struct Stage {
    pub address: SocketAddr,
    pub ledger: Arc<Ledger>,
    pub weather: Weather,
    thinking: (u32, Duration),
    /// Whether a balancer runs, so that every connect must succeed.
    pub is_serving: AtomicBool,
    order: Mutex<Order>,
    changed: Condvar,
    parked: AtomicUsize,
}

/// An order to all clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Ask,
    /// Close the connection and wait.
    Park,
    Stop,
}

impl Stage {
    pub fn new(address: SocketAddr, ledger: Arc<Ledger>, thinking: (u32, Duration)) -> Self {
        Self {
            address,
            ledger,
            weather: Weather::default(),
            thinking,
            is_serving: AtomicBool::new(false),
            order: Mutex::new(Order::Park),
            changed: Condvar::new(),
            parked: AtomicUsize::new(0),
        }
    }

    /// Gives all clients the next order.
    pub fn broadcast(&self, order: Order) {
        *self.order.lock().expect("no holder of this lock panics") = order;
        self.changed.notify_all();
    }

    /// How many clients have closed their connection and wait.
    pub fn parked(&self) -> usize {
        self.parked.load(SeqCst)
    }

    fn order(&self) -> Order {
        *self.order.lock().expect("no holder of this lock panics")
    }

    /// Waits until the order is another, for so long at most.
    fn rest(&self, during: Order, span: Duration) {
        let order = self.order.lock().expect("no holder of this lock panics");
        drop(
            self.changed
                .wait_timeout_while(order, span, |order| *order == during)
                .expect("no holder of this lock panics"),
        );
    }
}

/// All clients. They end when this is dropped.
pub struct Crowd {
    stage: Arc<Stage>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Starts so many clients, which wait for an order.
    pub fn start(stage: &Arc<Stage>, count: usize) -> Self {
        let start = |number: usize| {
            let rng =
                fastrand::Rng::with_seed(stage.ledger.seed.wrapping_add(1000 + number as u64));
            let client =
                Client { stage: Arc::clone(stage), rng, connection: None, out: Vec::new() };
            let thread =
                thread::Builder::new().name(format!("chaos client {number}")).stack_size(STACK);
            thread.spawn(move || client.run()).expect("a thread can be started")
        };
        Self { stage: Arc::clone(stage), threads: (0..count).map(start).collect() }
    }

    pub fn len(&self) -> usize {
        self.threads.len()
    }

    /// Waits for the end of all; a client's panic is returned.
    pub fn stop(&mut self) {
        self.stage.broadcast(Order::Stop);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.stage.ledger.violate("a client panicked", "see above");
            }
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Client {
    stage: Arc<Stage>,
    rng: fastrand::Rng,
    connection: Option<Connection>,
    out: Vec<u8>,
}

/// The start of a request, and the faults that were active then.
#[derive(Clone, Copy)]
struct Begun {
    at: Instant,
    weather: u32,
}

impl Client {
    fn run(mut self) {
        loop {
            match self.stage.order() {
                Order::Ask => self.run_exchange(),
                Order::Park => {
                    self.connection = None;
                    self.stage.parked.fetch_add(1, SeqCst);
                    while self.stage.order() == Order::Park {
                        self.stage.rest(Order::Park, Duration::from_secs(1));
                    }
                    self.stage.parked.fetch_sub(1, SeqCst);
                }
                Order::Stop => return,
            }
        }
    }

    /// Sends one request or two at once, then pauses.
    fn run_exchange(&mut self) {
        let first = self.stage.ledger.offer();
        if first.is_pipelinable() && self.rng.u8(..16) == 0 {
            let second = self.stage.ledger.offer();
            if second.is_pipelinable() {
                self.ask_both(&first, &second);
            } else {
                self.ask(&first);
                self.ask(&second);
            }
        } else {
            self.ask(&first);
        }
        let (share, longest) = self.stage.thinking;
        if self.rng.u32(..100) < share {
            // Long pauses are rare.
            self.stage.rest(Order::Ask, longest.mul_f64(self.rng.f64().powi(4)));
        }
    }

    fn ask(&mut self, plan: &Plan) {
        let Some(mut connection) = self.connection(plan) else {
            return;
        };
        let begun = self.begin();
        self.out.clear();
        plan.write_request(&mut self.out);
        if plan.manner == Manner::Abort {
            self.abort(plan, connection);
            return;
        }
        let is_sent = connection.send(&self.out).is_ok();
        let mut reply = connection.read_response(plan);
        if let Reply::Right { status: 101, .. } = reply {
            reply = connection
                .talk(plan)
                .map_or_else(|end| end, |()| Reply::Right { status: 101, announces_close: true });
        }
        let goes_on =
            self.settle(plan, reply, begun) && is_sent && plan.manner == Manner::KeepAlive;
        self.keep(connection, goes_on);
    }

    /// Sends the second request without waiting for the first response.
    fn ask_both(&mut self, first: &Plan, second: &Plan) {
        let Some(mut connection) = self.connection(first) else {
            self.stage.ledger.settle(second, Outcome::Aborted, Duration::ZERO);
            return;
        };
        let begun = self.begin();
        self.out.clear();
        first.write_request(&mut self.out);
        second.write_request(&mut self.out);
        let is_sent = connection.send(&self.out).is_ok();
        let reply = connection.read_response(first);
        let has_response = !matches!(reply, Reply::Nothing(_));
        let goes_on = self.settle(first, reply, begun);
        if !goes_on && has_response {
            self.stage.ledger.settle(second, Outcome::BehindClose, begun.at.elapsed());
            self.keep(connection, false);
            return;
        }
        let reply = connection.read_response(second);
        let goes_on = self.settle(second, reply, begun) && goes_on && is_sent;
        self.keep(connection, goes_on);
    }

    /// The connection for the next request: the present one, unless the balancer has ended it, or a
    /// new one. None if the request is lost.
    fn connection(&mut self, plan: &Plan) -> Option<Connection> {
        if let Some(connection) = self.connection.take() {
            match connection.look() {
                Idle::Open => return Some(connection),
                Idle::Ended => {}
                Idle::Talks => self
                    .stage
                    .ledger
                    .violate("bytes on an idle connection", &format!("before {plan:?}")),
            }
        }
        loop {
            let (begun, was_serving) = (self.begin(), self.stage.is_serving.load(SeqCst));
            let error = match Connection::connect(self.stage.address) {
                Ok(connection) => return Some(connection),
                Err(error) => error,
            };
            if was_serving && self.stage.is_serving.load(SeqCst) {
                let cause = if error.kind() == ErrorKind::ConnectionRefused {
                    "connect refused"
                } else {
                    "connect failed"
                };
                self.stage.ledger.lose(
                    plan,
                    cause,
                    begun.weather | self.stage.weather.mask(),
                    begun.at.elapsed(),
                );
                return None;
            }
            // No balancer runs: no request was sent.
            let order = self.stage.order();
            if order == Order::Stop {
                self.stage.ledger.settle(plan, Outcome::Aborted, Duration::ZERO);
                return None;
            }
            self.stage.rest(order, NEXT_CONNECT);
        }
    }

    fn begin(&self) -> Begun {
        Begun { at: Instant::now(), weather: self.stage.weather.mask() }
    }

    /// Records the outcome. Returns whether the connection can be used again.
    fn settle(&self, plan: &Plan, reply: Reply, begun: Begun) -> bool {
        let (ledger, took) = (&self.stage.ledger, begun.at.elapsed());
        let weather = begun.weather | self.stage.weather.mask();
        match reply {
            Reply::Right { status, announces_close } => {
                let is_error = status >= 400;
                ledger.settle(
                    plan,
                    if is_error { Outcome::BackendError } else { Outcome::Served },
                    took,
                );
                !announces_close
            }
            Reply::OwnError { code, announces_close } => {
                ledger.lose(plan, &code, weather, took);
                !announces_close
            }
            Reply::Cut => {
                ledger.truncate(plan, weather, took);
                false
            }
            Reply::Nothing(how) => {
                ledger.lose(plan, how, weather, took);
                false
            }
            Reply::Wrong(what) => {
                ledger.violate("crossed or corrupted response", &format!("{what}: {plan:?}"));
                ledger.lose(plan, "wrong response", weather, took);
                false
            }
            Reply::Hang => {
                ledger.violate("hang", &format!("{plan:?} after {took:?}"));
                ledger.lose(plan, "hang", weather, took);
                false
            }
        }
    }

    /// Keeps the connection for the next request, if nothing is left on it.
    fn keep(&mut self, connection: Connection, goes_on: bool) {
        if connection.has_surplus() {
            self.stage.ledger.violate(
                "response to a request that was never sent",
                "bytes after the last response",
            );
        } else if goes_on {
            self.connection = Some(connection);
        }
    }

    /// Resets the connection on purpose: inside the request, after it, or inside the response.
    fn abort(&mut self, plan: &Plan, mut connection: Connection) {
        let len = if self.rng.bool() { self.out.len() } else { self.rng.usize(1..self.out.len()) };
        let is_sent = connection.send(&self.out[..len]).is_ok();
        match self.rng.u8(..3) {
            0 if is_sent && len == self.out.len() => connection.glance(),
            1 => self.stage.rest(Order::Ask, Duration::from_micros(self.rng.u64(..3000))),
            _ => {}
        }
        connection.reset();
        self.stage.ledger.settle(plan, Outcome::Aborted, Duration::ZERO);
    }
}
