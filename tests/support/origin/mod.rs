//! A scripted backend on 127.0.0.1: raw bytes, one thread per connection, and a record of all that
//! was received.
//!
//! The vocabulary of scripts is in `origin/script.rs`, their execution in `origin/connection.rs`,
//! the record in `origin/record.rs`. Here is the origin as a test holds it: started, asked,
//! stopped. An [`Origin`] owns its threads. Stopping or dropping it closes every socket, which
//! wakes them all, and waits for them, never longer than [`TEST_TIMEOUT`]. A closure of a script
//! that panics fails the test there.

mod connection;
mod record;
mod reply;
mod script;

use std::any::Any;
use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use self::connection::Connection;
use self::record::Ledger;
pub use self::record::{Ending, Received};
pub use self::reply::Reply;
pub use self::script::{After, Health, Script, Step};
use super::address::Reservation;
use super::wait::{Gate, TEST_TIMEOUT, comes_true, until_some};

/// A backend that runs its script.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Mutex<Option<Arc<TcpListener>>>,
    /// Keeps the port for a restart while the origin is stopped.
    _reservation: Reservation,
}

impl Origin {
    /// Enough for tests that connect by the thousand at once.
    const BACKLOG: i32 = 4096;

    /// Starts on a free port of 127.0.0.1.
    #[track_caller]
    pub fn start(script: impl Into<Script>) -> Self {
        Self::listen(Reservation::any(), script.into())
    }

    /// Starts on this very address: takes the address of an origin that has stopped.
    #[track_caller]
    pub fn start_on(address: SocketAddr, script: impl Into<Script>) -> Self {
        let reservation = until_some("the address is free", || Reservation::of(address).ok());
        Self::listen(reservation, script.into())
    }

    /// See [`Script::serve`].
    #[track_caller]
    pub fn serve(handler: impl Fn(&Received, &mut Reply<'_>) + Send + Sync + 'static) -> Self {
        Self::start(Script::serve(handler))
    }

    /// See [`Script::responding`].
    #[track_caller]
    pub fn responding(body: impl AsRef<[u8]>) -> Self {
        Self::start(Script::responding(body))
    }

    /// See [`Script::named`].
    #[track_caller]
    pub fn named(name: &str) -> Self {
        Self::start(Script::named(name))
    }

    /// See [`Script::echo`].
    #[track_caller]
    pub fn echo() -> Self {
        Self::start(Script::echo())
    }

    /// See [`Script::raw`].
    #[track_caller]
    pub fn raw(bytes: impl AsRef<[u8]>, after: After) -> Self {
        Self::start(Script::raw(bytes, after))
    }

    /// The same origin with another health, set before any check can reach it.
    #[must_use]
    pub fn health(self, health: Health) -> Self {
        self.set_health(health);
        self
    }

    /// Changes the response to health checks from the next one on.
    pub fn set_health(&self, health: Health) {
        *lock(&self.shared.health) = health;
    }

    /// The address on which it listens, or listened before it was stopped.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening, so that connects are refused, and closes all connections. The record stays.
    #[track_caller]
    pub fn stop(&self) {
        let stopped = self.end();
        assert!(stopped, "an origin's threads go on: {}", self.story());
        let panics = self.panics();
        assert!(panics.is_empty(), "a script panicked: {panics:?}");
    }

    #[track_caller]
    fn listen(reservation: Reservation, script: Script) -> Self {
        let address = reservation.address;
        let listener = until_some("the origin can listen", || TcpListener::bind(address).ok());
        rustix::net::listen(&listener, Self::BACKLOG).expect("a listener takes a new backlog");
        let listener = Arc::new(listener);
        let shared = Arc::new(Shared::default());
        let acceptor = (Arc::clone(&shared), Arc::clone(&listener));
        shared.spawn("origin accept", move || accept(&acceptor.0, &acceptor.1, &script));
        Self { address, shared, listener: Mutex::new(Some(listener)), _reservation: reservation }
    }

    /// Ends all threads and returns whether they ended in time.
    fn end(&self) -> bool {
        self.shared.stopping.open();
        if let Some(listener) = lock(&self.listener).take() {
            // Wakes the accept. It cannot fail on a listening socket.
            let _ = rustix::net::shutdown(&*listener, rustix::net::Shutdown::Both);
        }
        comes_true(|| {
            self.shared.shut_down();
            self.shared.threads.load(Ordering::Acquire) == 0
        })
    }
}

/// The record of an origin.
impl Origin {
    /// All requests but health checks, in the order in which their heads came.
    pub fn requests(&self) -> Vec<Received> {
        self.shared.ledger().requests.clone()
    }

    /// How many requests came, health checks not counted.
    pub fn count(&self) -> usize {
        self.shared.ledger().requests.len()
    }

    /// The one request that came; panics if there were more or none.
    #[track_caller]
    pub fn only_request(&self) -> Received {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "one request: {}", self.story());
        requests.into_iter().next().expect("there is one")
    }

    /// Waits until the heads of `count` requests have come, and returns all that came.
    #[track_caller]
    pub fn wait_for_requests(&self, count: usize) -> Vec<Received> {
        if !comes_true(|| self.count() >= count) {
            panic!("no {count} requests in {TEST_TIMEOUT:?}: {}", self.story());
        }
        self.requests()
    }

    /// How many health checks came.
    pub fn health_checks(&self) -> usize {
        self.shared.ledger().health_checks
    }

    /// The bytes of each counted connection as they came, read by a step or not.
    pub fn bytes_received(&self) -> Vec<Vec<u8>> {
        self.shared.ledger().bytes()
    }

    /// How many connections carried more than health checks, from their first byte on.
    pub fn connections(&self) -> usize {
        self.shared.ledger().connections()
    }

    /// How many of these have not ended.
    pub fn open_connections(&self) -> usize {
        self.shared.ledger().open_connections()
    }

    /// How many connections were accepted: also those for health checks, and those on which nothing
    /// came.
    pub fn accepted(&self) -> usize {
        self.shared.ledger().accepted
    }

    /// How a counted connection ended, if it has.
    pub fn ending(&self, connection: usize) -> Option<Ending> {
        self.shared.ledger().ending(connection)
    }

    /// Waits until a counted connection has ended, and returns how.
    #[track_caller]
    pub fn wait_for_ending(&self, connection: usize) -> Ending {
        if !comes_true(|| self.ending(connection).is_some()) {
            panic!("connection {connection} goes on: {}", self.story());
        }
        self.ending(connection).expect("it has ended")
    }

    /// All that happened so far, for a message.
    pub fn story(&self) -> String {
        self.shared.ledger().story()
    }

    fn panics(&self) -> Vec<String> {
        self.shared.ledger().panics.clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let stopped = self.end();
        if !thread::panicking() {
            assert!(stopped, "an origin's threads go on: {}", self.story());
            let panics = self.panics();
            assert!(panics.is_empty(), "a script panicked: {panics:?}");
        }
    }
}

/// The state that the threads of an origin share. Each lock is a leaf and is held for a moment
/// only.
#[derive(Default)]
struct Shared {
    ledger: Mutex<Ledger>,
    health: Mutex<Health>,
    /// The sockets that are open, to wake their threads.
    streams: Mutex<HashMap<usize, Arc<TcpStream>>>,
    threads: AtomicUsize,
    stopping: Gate,
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    fn health(&self) -> Health {
        lock(&self.health).clone()
    }

    /// Wakes all threads that read or write.
    fn shut_down(&self) {
        for stream in lock(&self.streams).values() {
            // Fails only if the peer has already reset the connection, which wakes as well.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn spawn(self: &Arc<Self>, name: &str, work: impl FnOnce() + Send + 'static) {
        let shared = Arc::clone(self);
        self.threads.fetch_add(1, Ordering::AcqRel);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                work();
                shared.threads.fetch_sub(1, Ordering::AcqRel);
            })
            .expect("a thread can be started");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of an origin's lock panics")
}

/// The accepting thread.
fn accept(shared: &Arc<Shared>, listener: &TcpListener, script: &Script) {
    while !shared.stopping.is_open() {
        match listener.accept() {
            Ok((stream, _)) => {
                let (script, number) = (script.clone(), shared.ledger().accepted);
                shared.ledger().accepted += 1;
                let stream = Arc::new(stream);
                lock(&shared.streams).insert(number, Arc::clone(&stream));
                let own = Arc::clone(shared);
                shared.spawn("origin connection", move || converse(&own, stream, number, &script));
            }
            // Stopping, or no descriptor is free just now.
            Err(_) => drop(shared.stopping.wait_for(Duration::from_millis(5))),
        }
    }
}

/// The thread of one connection.
fn converse(shared: &Arc<Shared>, stream: Arc<TcpStream>, number: usize, script: &Script) {
    stream.set_nodelay(true).ok();
    let mut connection = Connection::new(stream, Arc::clone(shared));
    let ending =
        catch_unwind(AssertUnwindSafe(|| connection.run(script))).unwrap_or_else(|panic| {
            let message = panic_message(&*panic);
            shared.ledger().panics.push(message.clone());
            Ending::Fault(message)
        });

    connection.prepare_close(&ending);
    let index = connection.index;
    lock(&shared.streams).remove(&number);
    drop(connection);
    if let Some(index) = index {
        shared.ledger().ended(index, ending);
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a text".to_owned())
}
