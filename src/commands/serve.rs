//! The balancer as a command: serves until a signal, then drains.
//!
//! Runs on the main thread, which starts the threads and then waits for signals; must never serve.

use super::shell;
use crate::children;
use crate::cli::{ServeArgs, resolve_boot};
use crate::config::{Config, Problem, Settings, to_json};
use crate::logging::{self, LogWriter};
use crate::metrics::Totals;
use crate::net;
use crate::server::{Drained, LOOK_INTERVAL, ReloadSource, Server, ServiceManager, StartOptions};
use crossbeam_channel::Receiver;
use signal_hook::consts::{SIGHUP, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use std::io::{self, Write};
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
    let log = match start_log(&config.settings, config.boot.log_file.as_deref()) {
        Ok(log) => log,
        Err(message) => return fail(None, &message, START_FAILED),
    };
    for warning in &loaded.warnings {
        log::warn!(event = "start"; "{warning}");
    }
    for note in &sources.notes {
        log::info!(event = "start"; "{note}");
    }
    if let Err(error) = resolve_boot(&mut config.boot) {
        return fail(Some(&log), &error.message, error.exit_code);
    }
    let reload = ReloadSource { sources, loaded, look_interval: LOOK_INTERVAL };
    let reload = Some(reload).filter(|reload| reload.sources.path.is_some());
    let options =
        StartOptions { inherited, reload, log: Some(log.clone()), ..StartOptions::default() };
    let exit_code = balance(config, options, &log, |_| {});
    log.flush_for_exit();
    exit_code
}

/// Serves until a signal. Calls `ready` once the balancer listens.
pub fn balance(
    config: Config,
    options: StartOptions,
    log: &LogWriter,
    ready: impl FnOnce(&Server),
) -> ExitCode {
    // First, so that a signal during the start is not lost.
    let signals = match Signals::watch(log) {
        Ok(signals) => signals,
        Err(error) => {
            return fail(Some(log), &format!("cannot watch for signals: {error}"), START_FAILED);
        }
    };
    if let Err(error) = children::start_reaper() {
        return fail(Some(log), &format!("cannot watch for ended children: {error}"), START_FAILED);
    }
    log_config(&config);
    let manager = ServiceManager::from_environment();
    if let count @ 1.. = options.inherited.len() {
        log::info!(
            event = "start";
            "{count} socket(s) from LISTEN_FDS: --host and --port are not used"
        );
    }
    let server = match Server::start_with(config, options) {
        Ok(server) => server,
        Err(error) => return fail(Some(log), &error.to_string(), START_FAILED),
    };
    for address in server.balancer().admin_addresses() {
        log::info!(event = "start"; "control API on http://{address}");
    }
    for address in server.balancer().addresses() {
        log::info!(
            event = "start";
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
            log::info!(event = "reload"; "signal HUP is ignored: {error}");
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
    log::info!(
        event = "start";
        "balancing {names} with {} workers, {algorithm}", config.boot.workers
    );
    let health = &config.settings.health;
    if health.checks {
        log::info!(
            event = "start";
            "checking GET {} every {:?}, timeout {:?}",
            health.path,
            health.period,
            health.check_timeout()
        );
    } else {
        log::info!(event = "start"; "no health checks: relying on passive health checking only");
    }
}

fn drain(mut server: Server, timeout: Option<Duration>, signals: &Receiver<Stop>) -> ExitCode {
    let limit = timeout.map_or("no time limit".to_owned(), |timeout| format!("up to {timeout:?}"));
    log::info!(
        event = "stop";
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
                log::warn!(
                    event = "stop";
                    "stopped at the second signal, with connections aborted"
                );
                return ExitCode::from(ABORTED);
            }
        },
    };
    let _ = waiter.join();
    let (drained, totals) = ended.unwrap_or((Drained::Clean, Totals::default()));
    log::info!(
        event = "stop";
        "stopped after {} requests on {} connections", totals.requests, totals.connections
    );
    match drained {
        Drained::Clean => ExitCode::SUCCESS,
        Drained::Aborted(count) => {
            log::warn!(
                event = "stop";
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
    /// Watches from now on. USR1 and HUP have the file of the log opened again; USR2 is ignored,
    /// because a later version gives it a meaning.
    fn watch(log: &LogWriter) -> io::Result<Self> {
        let (stop, stops) = crossbeam_channel::unbounded();
        let (reload, reloads) = crossbeam_channel::unbounded();
        let (from_terminal, log) = (stop.clone(), log.clone());
        ctrlc::set_handler(move || {
            let _ = from_terminal.send(Stop::WithTimeout);
        })
        .map_err(io::Error::other)?;
        let mut signals =
            signal_hook::iterator::Signals::new([SIGTERM, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2])?;
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                match signal {
                    SIGHUP => {
                        log.reopen();
                        let _ = reload.send(());
                    }
                    SIGUSR1 if log.is_file() => log.reopen(),
                    SIGUSR1 => log::info!("signal {SIGUSR1} is ignored: there is no log file"),
                    SIGUSR2 => log::info!("signal {SIGUSR2} is ignored"),
                    SIGQUIT => drop(stop.send(Stop::WithoutTimeout)),
                    _ => drop(stop.send(Stop::WithTimeout)),
                }
            }
        })?;
        Ok(Self { stops, reloads })
    }
}

/// Starts the log, to a file or else to stderr. An error names the file and the reason.
pub fn start_log(settings: &Settings, file: Option<&str>) -> Result<LogWriter, String> {
    logging::set_format(settings.log_format);
    logging::install(settings.log_level, file)
}

/// Prints the problems of a configuration, with the words of `check`.
fn reject(problems: &[Problem]) -> ExitCode {
    if let [problem] = problems
        && problem.position.is_none()
    {
        return fail(None, &problem.to_string(), START_FAILED);
    }
    for problem in problems {
        let _ = write!(io::stderr(), "{}", problem.render());
    }
    let message = format!("not started: {} problem(s) in the configuration", problems.len());
    fail(None, &message, START_FAILED)
}

/// Prints an error of one line to stderr, as the last line; a log file gets it too.
pub fn fail(log: Option<&LogWriter>, message: &str, exit_code: u8) -> ExitCode {
    let log_on_stderr = log.filter(|log| !log.is_file());
    if let Some(log) = log_on_stderr {
        log.end_with(message);
        return ExitCode::from(exit_code);
    }
    if let Some(file) = log {
        log::error!(event = "start"; "{message}");
        file.flush_for_exit();
    }
    // Fails if stderr is full or closed.
    let _ = writeln!(io::stderr(), "lb-threads: {message}");
    ExitCode::from(exit_code)
}
