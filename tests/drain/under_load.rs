//! Stopping the real program while clients are busy: no request is lost on a connection whose close
//! was not announced.
//!
//! A request is lost if it was sent on a connection whose close was not announced, and got no
//! complete response. A refused connect is no loss: the balancer has ended.

use crate::support::program::Program;
use crate::support::{Origin, TEST_TIMEOUT, until};
use rustix::process::Signal;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

/// The state that all clients of one run share.
#[derive(Debug, Default)]
struct Run {
    served: AtomicUsize,
    /// On kept connections.
    lost: AtomicUsize,
    /// On connections of their own.
    lost_new: AtomicUsize,
}

impl Run {
    /// Sends requests in a loop, on kept connections or each time on a new one, until a connect is
    /// refused.
    fn be_busy(&self, address: SocketAddr, keeps: bool) {
        while let Ok(mut stream) = TcpStream::connect(address) {
            stream.set_read_timeout(Some(TEST_TIMEOUT)).expect("a socket takes a timeout");
            loop {
                match ask(&mut stream, keeps) {
                    Ok(closes) => {
                        self.served.fetch_add(1, Relaxed);
                        if closes {
                            break;
                        }
                    }
                    Err(error) => {
                        println!("lost: {error} (keeps: {keeps})");
                        let lost = if keeps { &self.lost } else { &self.lost_new };
                        lost.fetch_add(1, Relaxed);
                        return;
                    }
                }
            }
        }
    }
}

/// One request on a connection, and whether its response announces a close.
fn ask(stream: &mut TcpStream, keeps: bool) -> io::Result<bool> {
    let close = if keeps { "" } else { "Connection: close\r\n" };
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: x\r\n{close}\r\n").as_bytes())?;
    let (mut received, mut piece) = (Vec::new(), [0; 4096]);
    while !received.ends_with(b"\r\n\r\nhello") {
        match stream.read(&mut piece)? {
            0 => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("closed after {} bytes", received.len()),
                ));
            }
            count => received.extend_from_slice(&piece[..count]),
        }
    }
    assert!(received.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&received));
    Ok(String::from_utf8_lossy(&received).to_lowercase().contains("connection: close"))
}

/// Sends one SIGTERM to a program with so many busy clients, after so many requests, and returns
/// their results.
#[track_caller]
fn stop_under_load(kept: usize, new: usize, requests: usize) -> Run {
    let origin = Origin::responding("hello");
    let program = Program::balancer(&[origin.address()], &[]);
    let (address, run) = (program.address(), Run::default());
    thread::scope(|scope| {
        for number in 0..kept + new {
            let run = &run;
            scope.spawn(move || run.be_busy(address, number < kept));
        }
        until("the clients are busy", || run.served.load(Relaxed) >= requests);
        program.signal(Signal::TERM);
    });
    let ended = program.wait_for_end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr.lines().last().unwrap_or_default());
    run
}

#[test]
fn busy_clients_lose_no_request_when_the_process_stops() {
    for round in 0..3 {
        let run = stop_under_load(50, 0, 200 + 37 * round);
        assert_eq!(run.lost.into_inner(), 0, "of {:?}", run.served);
    }
}

#[test]
#[ignore = "the whole bar: 20 stops with 150 busy connections each, ten seconds of full load"]
fn a_hundred_and_fifty_busy_clients_lose_no_request_in_twenty_stops() {
    let all = Run::default();
    for round in 0..20 {
        let run = stop_under_load(150, 10, 1_000 + 101 * round);
        for (sum, count) in
            [(&all.served, run.served), (&all.lost, run.lost), (&all.lost_new, run.lost_new)]
        {
            sum.fetch_add(count.into_inner(), Relaxed);
        }
    }
    println!("20 stops, 150 clients with kept connections and 10 with new ones: {all:?}");
    assert_eq!(all.lost.into_inner(), 0);
    // Between the last look at the backlog and the end of listening there is a microsecond in which
    // a connection can come.
    assert!(all.lost_new.into_inner() <= 2, "the backlog is emptied");
}

#[test]
fn connections_in_the_backlog_when_the_process_stops_are_served() {
    let origin = Origin::responding("hello");
    let program = Program::balancer(&[origin.address()], &[]);
    let address = program.address();
    program.signal(Signal::STOP);
    let mut clients: Vec<TcpStream> =
        (0..1_000).map(|_| TcpStream::connect(address).expect("the backlog takes it")).collect();
    for client in &mut clients {
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("the kernel takes it");
    }
    program.signal(Signal::TERM);
    program.signal(Signal::CONT);
    let served = clients.iter_mut().map(|client| {
        client.set_read_timeout(Some(TEST_TIMEOUT)).expect("a socket takes a timeout");
        let mut response = Vec::new();
        client.read_to_end(&mut response)?;
        Ok(response.starts_with(b"HTTP/1.1 200 ") && response.ends_with(b"hello"))
    });
    let outcomes: Vec<io::Result<bool>> = served.collect();
    let lost: Vec<_> = outcomes.iter().filter(|outcome| !matches!(outcome, Ok(true))).collect();
    assert!(lost.is_empty(), "{} of 1,000 were not served: {:?}", lost.len(), lost.first());
    assert_eq!(program.wait_for_end().code, Some(0));
}
