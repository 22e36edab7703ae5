//! The balancer as a command: serves until a signal, then drains.
//!
//! Runs on the main thread, which starts the threads and then waits for signals; must never serve.

use super::shell;
use crate::children;
use crate::cli::{ServeArgs, resolve_boot};
use crate::config::{Config, Problem, to_json};
use crate::logging::{self, LogWriter};
use crate::metrics::Totals;
use crate::net;
use crate::server::{Drained, LOOK_INTERVAL, ReloadSource, Server, ServiceManager, StartOptions};
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
    // Before a thread is started or a descriptor is opened.
    let inherited = match net::take_inherited() {
        Ok(sockets) => sockets,
        Err(message) => return fail(None, &message, START_FAILED),
    };
    let prints_config = args.print_config;
    let mut sources = match args.into_sources() {
        Ok(sources) => sources,
        Err(error) => return fail(None, &error.message, error.exit_code),
    };
    sources.inherited = inherited.iter().filter_map(|socket| socket.local_addr().ok()).collect();
    let loaded = match sources.load() {
        Ok(loaded) => loaded,
        Err(problems) => return reject(&problems),
    };
    let mut config = loaded.config.clone();
    if prints_config {
        return shell::print(&to_json(&config));
    }
    let log = start_log(config.settings.log_level);
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    for note in &sources.notes {
        log::info!("{note}");
    }
    if let Err(error) = resolve_boot(&mut config.boot) {
        return fail(log.as_ref(), &error.message, error.exit_code);
    }
    let reload = ReloadSource { sources, loaded, look_interval: LOOK_INTERVAL };
    let reload = Some(reload).filter(|reload| reload.sources.path.is_some());
    let options = StartOptions { inherited, reload, ..StartOptions::default() };
    let exit_code = balance(config, options, log.as_ref(), |_| {});
    if let Some(log) = log {
        log.flush_for_exit();
    }
    exit_code
}

/// Serves until a signal. Calls `ready` once the balancer listens.
pub fn balance(
    config: Config,
    options: StartOptions,
    log: Option<&LogWriter>,
    ready: impl FnOnce(&Server),
) -> ExitCode {
    // First, so that a signal during the start is not lost.
    let signals = match Signals::watch() {
        Ok(signals) => signals,
        Err(error) => {
            return fail(log, &format!("cannot watch for signals: {error}"), START_FAILED);
        }
    };
    if let Err(error) = children::start_reaper() {
        return fail(log, &format!("cannot watch for ended children: {error}"), START_FAILED);
    }
    log_config(&config);
    let manager = ServiceManager::from_environment();
    if let count @ 1.. = options.inherited.len() {
        log::info!("{count} socket(s) from LISTEN_FDS: --host and --port are not used");
    }
    let server = match Server::start_with(config, options) {
        Ok(server) => server,
        Err(error) => return fail(log, &error.to_string(), START_FAILED),
    };
    for address in server.balancer().admin_addresses() {
        log::info!("control API on http://{address}");
    }
    for address in server.balancer().addresses() {
        log::info!(
            "listening on http://{address}, {} backend(s) up",
            server.balancer().cluster().up()
        );
    }
    ready(&server);
    let supervision = manager.ready(server.balancer());
    let stop = serve_until_stop(&server, &manager, &signals);
    drop(supervision);
    manager.stopping(server.balancer());
    let drain_timeout = server.balancer().settings().timeouts.drain;
    drain(server, (stop == Stop::WithTimeout).then_some(drain_timeout), &signals.stops)
}

/// Waits for a stop, and reloads meanwhile.
fn serve_until_stop(server: &Server, manager: &ServiceManager, signals: &Signals) -> Stop {
    loop {
        crossbeam_channel::select! {
            // Fails only if no thread watches for signals any more: then none could stop the balancer
            // later.
            recv(signals.stops) -> stop => return stop.unwrap_or(Stop::WithTimeout),
            recv(signals.reloads) -> reload => {
                let stop = match reload {
                    Ok(()) => manager.around_reload(server.balancer(), || reload_or_stop(server, signals)),
                    Err(_) => Some(signals.stops.recv().unwrap_or(Stop::WithTimeout)),
                };
                if let Some(stop) = stop {
                    return stop;
                }
            }
        }
    }
}

/// Reloads, whose outcome is in the log; a stop meanwhile is returned at once.
fn reload_or_stop(server: &Server, signals: &Signals) -> Option<Stop> {
    let outcome = match server.balancer().request_reload() {
        Ok(outcome) => outcome,
        Err(error) => {
            log::info!("signal HUP is ignored: {error}");
            return None;
        }
    };
    crossbeam_channel::select! {
        // An error means that the thread has ended.
        recv(outcome) -> _ => None,
        recv(signals.stops) -> stop => Some(stop.unwrap_or(Stop::WithTimeout)),
    }
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

/// The signals that the main thread waits for.
struct Signals {
    /// A message for each INT, TERM and QUIT.
    stops: Receiver<Stop>,
    /// A message for each HUP.
    reloads: Receiver<()>,
}

impl Signals {
    /// Watches from now on. USR1 and USR2 are ignored, because a later version gives them a meaning.
    fn watch() -> io::Result<Self> {
        let (stop, stops) = crossbeam_channel::unbounded();
        let (reload, reloads) = crossbeam_channel::unbounded();
        let from_terminal = stop.clone();
        ctrlc::set_handler(move || {
            let _ = from_terminal.send(Stop::WithTimeout);
        })
        .map_err(io::Error::other)?;
        let mut signals =
            signal_hook::iterator::Signals::new([SIGTERM, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2])?;
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                match signal {
                    SIGHUP => drop(reload.send(())),
                    SIGUSR1 | SIGUSR2 => log::info!("signal {signal} is ignored"),
                    SIGQUIT => drop(stop.send(Stop::WithoutTimeout)),
                    _ => drop(stop.send(Stop::WithTimeout)),
                }
            }
        })?;
        Ok(Self { stops, reloads })
    }
}

/// Starts the log; if that fails, the program runs without one.
pub fn start_log(level: LevelFilter) -> Option<LogWriter> {
    logging::install(level).ok()
}

/// Prints the problems of a configuration, with the words of `check`.
fn reject(problems: &[Problem]) -> ExitCode {
    if let [problem] = problems
        && problem.position.is_none()
    {
        return fail(None, &problem.to_string(), START_FAILED);
    }
    for problem in problems {
        eprint!("{}", problem.render());
    }
    let message = format!("not started: {} problem(s) in the configuration", problems.len());
    fail(None, &message, START_FAILED)
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
