//! `lb-threads demo`: three demo backends and a balancer in front of them, with one command.
//!
//! Runs on the main thread. The backends are processes, so that a user can kill one and watch the
//! failover. Each ends with its standard input, which this process holds open: no backend is left
//! behind, even if this process is killed.

use super::serve;
use crate::children::{self, Owned};
use crate::cli::{DemoArgs, UsageError};
use crate::config::{AdminPort, Boot, Config, ControlBoot, HealthSettings, Settings};
use crate::net;
use crate::server::{Server, StartOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

const NAMES: [&str; 3] = ["one", "two", "three"];
/// A short period, so that the end and the return of a backend show soon.
const PERIOD: Duration = Duration::from_secs(2);

/// A backend process; ends when this is dropped.
struct Backend {
    name: &'static str,
    address: SocketAddr,
    process: Owned,
}

impl Drop for Backend {
    fn drop(&mut self) {
        // Fails only if the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts the backends and the balancer, prints their addresses, and ends them all on Ctrl-C.
pub fn run(args: &DemoArgs) -> ExitCode {
    let settings = Settings { log_level: args.log_level, ..Settings::default() };
    let log = match serve::start_log(&settings, None) {
        Ok(log) => log,
        Err(message) => return serve::fail(None, &message, serve::START_FAILED),
    };
    let mut listen = match net::resolve(&args.host, args.port) {
        Ok(addresses) => addresses,
        Err(error) => {
            let error = UsageError::unresolved("--host", &args.host, &error);
            return serve::fail(Some(&log), &error.message, error.exit_code);
        }
    };
    listen.truncate(1);
    let backends = match NAMES.iter().map(|name| start(name)).collect::<io::Result<Vec<Backend>>>()
    {
        Ok(backends) => backends,
        Err(error) => {
            return serve::fail(
                Some(&log),
                &format!("cannot start the demo backends: {error}"),
                serve::START_FAILED,
            );
        }
    };
    let control = ControlBoot { admin: Some(AdminPort::optional()), ..ControlBoot::default() };
    let config = Config {
        boot: Boot { listen, control, ..Boot::default() },
        backends: backends.iter().map(|backend| backend.address.into()).collect(),
        settings: Settings {
            health: HealthSettings { period: PERIOD, ..HealthSettings::default() },
            ..settings
        },
    };
    let options = StartOptions { log: Some(log.clone()), ..StartOptions::default() };
    let exit_code = serve::balance(config, options, &log, |server| {
        print_guide(server, &backends);
    });
    drop(backends);
    log.flush_for_exit();
    exit_code
}

/// Starts a backend and waits for the address that it prints.
fn start(name: &'static str) -> io::Result<Backend> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["backend", "--port", "0", "--id", name, "--until-stdin-ends"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Ctrl-C signals a whole process group, but the backends must outlive the drain.
        .process_group(0);
    let mut process = children::spawn(&mut command)?;
    let mut line = String::new();
    if let Some(output) = process.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    let address = line.trim().rsplit("http://").next().and_then(|address| address.parse().ok());
    match address {
        Some(address) => Ok(Backend { name, address, process }),
        None => {
            let _ = process.kill();
            let _ = process.wait();
            Err(io::Error::other(format!(
                "backend {name} printed `{}` instead of its address",
                line.trim()
            )))
        }
    }
}

/// Prints where everything is, as far as standard output works.
fn print_guide(server: &Server, backends: &[Backend]) {
    let mut guide = "\n  Three demo backends and a balancer in front of them:\n\n".to_owned();
    for Backend { name, address, process } in backends {
        guide += &format!("    backend {name:<6} http://{address}   (process {})\n", process.id());
    }
    for address in server.balancer().addresses() {
        guide += &format!("    balancer       http://{address}\n\n");
        guide += &format!(
            "  Try:   curl http://{address}/          repeat it: the backends take turns\n"
        );
    }
    if let [address, ..] = server.balancer().admin_addresses() {
        guide += &format!(
            "         curl http://{address}/_control/list   the backends and their states\n"
        );
    }
    if let [Backend { name, process, .. }, ..] = backends {
        let id = process.id();
        guide += &format!("         kill {id:<24} takes backend {name} away: no request fails\n");
    }
    guide += "  End:   Ctrl-C\n\n";
    let _ = io::stdout().write_all(guide.as_bytes());
}
