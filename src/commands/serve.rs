//! The balancer as a command: serves until a signal, then drains.
//!
//! Runs on the main thread, which starts the threads and then waits for signals; must never serve.

use crate::cli::ServeArgs;
use crate::config::Config;
use crate::logging::{self, LogWriter};
use crate::metrics::Totals;
use crate::server::{Drained, Server};
use crossbeam_channel::Receiver;
use log::LevelFilter;
use signal_hook::consts::{SIGHUP, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use std::io;
use std::process::ExitCode;
use std::time::Duration;

/// The exit code: could not start.
pub const START_FAILED: u8 = 1;
/// The exit code: stopped with connections aborted.
const ABORTED: u8 = 3;

/// The command `lb-threads [PERIOD]`.
pub fn run(args: ServeArgs) -> ExitCode {
    let log = start_log(args.log_level);
    let config = match args.into_config() {
        Ok(config) => config,
        Err(error) => return fail(log.as_ref(), &error.message, error.exit_code),
    };
    let exit_code = balance(config, log.as_ref(), |_| {});
    if let Some(log) = log {
        log.flush_for_exit();
    }
    exit_code
}

/// Serves until a signal. Calls `ready` once the balancer listens.
pub fn balance(config: Config, log: Option<&LogWriter>, ready: impl FnOnce(&Server)) -> ExitCode {
    // First, so that a signal during the start is not lost.
    let signals = match stop_signals() {
        Ok(signals) => signals,
        Err(error) => {
            return fail(log, &format!("cannot watch for signals: {error}"), START_FAILED);
        }
    };
    log_config(&config);
    let server = match Server::start(config) {
        Ok(server) => server,
        Err(error) => return fail(log, &error.to_string(), START_FAILED),
    };
    for address in server.balancer().addresses() {
        log::info!(
            "listening on http://{address}, {} backend(s) up",
            server.balancer().cluster().up()
        );
    }
    ready(&server);
    // Fails only if no thread watches for signals any more: then none could stop the balancer later.
    let stop = signals.recv().unwrap_or(Stop::WithTimeout);
    let drain_timeout = server.balancer().settings().timeouts.drain;
    drain(server, (stop == Stop::WithTimeout).then_some(drain_timeout), &signals)
}

fn log_config(config: &Config) {
    let names = config.backends.iter().map(|backend| backend.authority.to_string());
    let names: Vec<String> = names.collect();
    let names = if names.is_empty() { "no backends yet".to_owned() } else { names.join(", ") };
    let algorithm = config.settings.algorithm.name();
    log::info!("balancing {names} with {} workers, {algorithm}", config.boot.workers);
    let health = &config.settings.health;
    if health.checks {
        log::info!(
            "checking GET {} every {:?}, timeout {:?}",
            health.path,
            health.period,
            health.check_timeout()
        );
    } else {
        log::info!("no health checks: relying on passive health checking only");
    }
    if std::path::Path::new("config.json").exists() {
        log::info!("config.json in this folder is ignored: this version does not read it");
    }
}

fn drain(mut server: Server, timeout: Option<Duration>, signals: &Receiver<Stop>) -> ExitCode {
    let limit = timeout.map_or("no time limit".to_owned(), |timeout| format!("up to {timeout:?}"));
    log::info!(
        "stopping: {} connection(s) open, {limit} for requests in flight; signal again to stop immediately",
        server.balancer().open_connections()
    );
    server.balancer().begin_drain(timeout);
    let (done, is_done) = crossbeam_channel::bounded(1);
    let waiter = std::thread::spawn(move || {
        let drained = server.wait();
        let _ = done.send((drained, server.balancer().totals()));
    });
    let ended = crossbeam_channel::select! {
        recv(is_done) -> ended => ended.ok(),
        recv(signals) -> _ => match is_done.try_recv() {
            Ok(ended) => Some(ended),
            Err(_) => {
                log::warn!("stopped at the second signal, with connections aborted");
                return ExitCode::from(ABORTED);
            }
        },
    };
    let _ = waiter.join();
    let (drained, totals) = ended.unwrap_or((Drained::Clean, Totals::default()));
    log::info!("stopped after {} requests on {} connections", totals.requests, totals.connections);
    match drained {
        Drained::Clean => ExitCode::SUCCESS,
        Drained::Aborted(count) => {
            log::warn!(
                "{count} connection(s) were aborted: they were still busy after {:?}",
                timeout.unwrap_or_default()
            );
            ExitCode::from(ABORTED)
        }
    }
}

/// The kind of stop that a signal requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// INT and TERM: a drain that ends after the drain timeout.
    WithTimeout,
    /// QUIT: a drain without a time limit.
    WithoutTimeout,
}

/// A channel with a message for each SIGINT, SIGTERM and SIGQUIT. HUP, USR1 and USR2 are ignored,
/// because a later version gives them a meaning.
fn stop_signals() -> io::Result<Receiver<Stop>> {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let from_terminal = sender.clone();
    ctrlc::set_handler(move || {
        let _ = from_terminal.send(Stop::WithTimeout);
    })
    .map_err(io::Error::other)?;
    let mut signals =
        signal_hook::iterator::Signals::new([SIGTERM, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGHUP | SIGUSR1 | SIGUSR2 => {
                    log::info!("signal {signal} is ignored");
                }
                SIGQUIT => drop(sender.send(Stop::WithoutTimeout)),
                _ => drop(sender.send(Stop::WithTimeout)),
            }
        }
    })?;
    Ok(receiver)
}

/// Starts the log; if that fails, the program runs without one.
pub fn start_log(level: LevelFilter) -> Option<LogWriter> {
    logging::install(level).ok()
}

/// Prints an error of one line to stderr, as the last line.
pub fn fail(log: Option<&LogWriter>, message: &str, exit_code: u8) -> ExitCode {
    let line = format!("lb-threads: {message}");
    match log {
        Some(log) => log.end_with(&line),
        None => eprintln!("{line}"),
    }
    ExitCode::from(exit_code)
}
