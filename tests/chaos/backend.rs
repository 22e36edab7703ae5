//! A backend: a listener and threads that serve its connections, which can be killed, restarted and
//! paused.
//!
//! Each start is a [`Life`] with an accepting thread of its own; the serving threads outlive it, as
//! many as connections were ever open at the same time, so that no request and no connection costs
//! a thread.

use super::backend_connection::{Connection, Life, Pause};
use super::faults::{Fault, FaultRate};
use super::ledger::Ledger;
use super::serving::Server;
use crate::support::{refused_address, until_some};
use crossbeam_channel::{Receiver, Sender};
use rustix::event::PollFlags;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const STACK: usize = 256 * 1024;
const BACKLOG: i32 = 4096;
/// For a direct health check of a backend that is well.
const RESPONDS_WITHIN: Duration = Duration::from_secs(5);

/// A scripted backend on 127.0.0.1.
pub struct Backend {
    pub address: SocketAddr,
    pub fault_rate: Arc<FaultRate>,
    pub pause: Arc<Pause>,
    crew: Arc<Crew>,
    /// The queue to the serving threads; they end when it is dropped.
    sockets: Sender<Accepted>,
    running: Option<Running>,
}

struct Running {
    life: Arc<Life>,
    cord: OwnedFd,
    acceptor: JoinHandle<()>,
}

type Accepted = (TcpStream, Arc<Life>);

/// The serving threads and their shared state.
struct Crew {
    queue: Receiver<Accepted>,
    /// Waiting threads, less the connections that are queued for them.
    free: AtomicIsize,
    ledger: Arc<Ledger>,
    fault_rate: Arc<FaultRate>,
}

impl Backend {
    /// Starts a backend on a port that stays reserved while it is dead.
    pub fn start(ledger: &Arc<Ledger>) -> Self {
        let (sockets, queue) = crossbeam_channel::unbounded();
        let fault_rate = Arc::<FaultRate>::default();
        let (ledger, sick) = (Arc::clone(ledger), Arc::clone(&fault_rate));
        let crew = Arc::new(Crew { queue, free: AtomicIsize::new(0), ledger, fault_rate: sick });
        let mut backend = Self {
            address: refused_address(),
            fault_rate,
            pause: Arc::default(),
            crew,
            sockets,
            running: None,
        };
        backend.revive();
        backend
    }

    /// Closes the listener and resets all connections. When this returns connects are refused.
    pub fn kill(&mut self, fault: Fault) {
        self.pause.set(false);
        if let Some(running) = self.running.take() {
            running.life.end(running.cord, fault);
            running.acceptor.join().expect("an acceptor does not panic");
        }
    }

    /// Listens again, on the same port.
    pub fn revive(&mut self) {
        let address = self.address;
        let listener = until_some("a backend can listen again", || TcpListener::bind(address).ok());
        rustix::net::listen(&listener, BACKLOG).expect("a listener takes a new backlog");
        let (life, cord) = Life::begin(Arc::clone(&self.pause));
        let (crew, lifetime, sockets) =
            (Arc::clone(&self.crew), Arc::clone(&life), self.sockets.clone());
        let acceptor = spawn("chaos accept", move || accept(&listener, &lifetime, &crew, &sockets));
        self.running = Some(Running { life, cord, acceptor });
    }

    /// Whether it responds to a health check that is sent to it directly.
    pub fn responds(&self) -> bool {
        let check = || {
            let mut socket = TcpStream::connect_timeout(&self.address, RESPONDS_WITHIN)?;
            socket.set_read_timeout(Some(RESPONDS_WITHIN))?;
            socket.write_all(
                b"GET /health HTTP/1.1\r\nHost: chaos.test\r\nConnection: close\r\n\r\n",
            )?;
            let mut response = Vec::new();
            socket.read_to_end(&mut response)?;
            Ok::<_, std::io::Error>(response.starts_with(b"HTTP/1.1 200 "))
        };
        check().unwrap_or(false)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.kill(Fault::Kill);
    }
}

/// Passes each connection to a thread that is free, or to a new one, until the backend dies.
fn accept(listener: &TcpListener, life: &Arc<Life>, crew: &Arc<Crew>, sockets: &Sender<Accepted>) {
    listener.set_nonblocking(true).expect("a listener can be made not to block");
    loop {
        if life.wait(Some((listener.as_fd(), PollFlags::IN)), None).is_err() {
            return;
        }
        life.pause.pass(life);
        while let Ok((socket, _)) = listener.accept() {
            if crew.free.fetch_sub(1, SeqCst) <= 0 {
                crew.free.fetch_add(1, SeqCst);
                let member = Arc::clone(crew);
                drop(spawn("chaos backend", move || member.work()));
            }
            // Fails only without a receiver, and the crew has one.
            let _ = sockets.send((socket, Arc::clone(life)));
        }
    }
}

impl Crew {
    /// Serves one connection after another, until the backend is gone.
    fn work(&self) {
        let mut server = Server::new(Arc::clone(&self.ledger), Arc::clone(&self.fault_rate));
        while let Ok((socket, life)) = self.queue.recv() {
            server.serve(Connection::new(socket, life, Arc::clone(&self.ledger)));
            self.free.fetch_add(1, SeqCst);
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(work)
        .expect("a thread can be started")
}
