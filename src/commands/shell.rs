//! `lb-threads completions` and `lb-threads man`: what a shell and a manual page need, made from the
//! command line's own description.

use crate::cli::Args;
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::{self, Write};
use std::process::ExitCode;

/// Prints the completions of a shell.
pub fn completions(shell: Shell) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "lb-threads", &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// Prints the manual page.
pub fn man() -> ExitCode {
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = clap_mangen::Man::new(Args::command()).render(&mut text);
    print(&String::from_utf8_lossy(&text))
}

/// Prints a result; a reader that is gone is no error.
pub fn print(text: &str) -> ExitCode {
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}
