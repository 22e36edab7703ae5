//! The program: parses the command line and calls the command.

#![forbid(unsafe_code)]

use clap::Parser;
use lb_threads::cli::{Args, Command, in_one_line};
use lb_threads::commands::{backend, ctl, demo, serve};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        // Help and version are no errors.
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return serve::fail(None, &in_one_line(&error), 2),
    };
    match args.command {
        None => serve::run(args.serve),
        Some(Command::Demo(args)) => demo::run(&args),
        Some(Command::Backend(args)) => backend::run(&args),
        Some(Command::Ctl(args)) => ctl::run(&args),
    }
}
