//! A pseudo-terminal: the program with a terminal as its outputs.

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

/// Runs the command to its end with one terminal as standard output and standard error. Returns its
/// exit code and what the terminal got: with CR LF as line ends.
#[track_caller]
pub fn run_in_terminal(command: Command) -> (Option<i32>, String) {
    run_in_terminal_of(0, command)
}

/// The same in a terminal with so many columns; 0 is an unknown number.
#[track_caller]
pub fn run_in_terminal_of(columns: u16, mut command: Command) -> (Option<i32>, String) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal can be opened");
    grantpt(&master).and_then(|()| unlockpt(&master)).expect("it is ours");
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&master, size).expect("a terminal has a size");
    let name = ptsname(&master, Vec::new()).expect("it has a name");
    let slave = std::ffi::OsStr::from_bytes(name.as_bytes());
    let open = || File::options().read(true).write(true).open(slave).expect("it can be opened");
    let mut child = command
        .stdout(Stdio::from(open()))
        .stderr(Stdio::from(open()))
        .spawn()
        .expect("the program starts");
    // The command holds the other ends, and the end of the last one ends the reading.
    drop(command);
    let (mut shown, mut piece, mut master) = (Vec::new(), [0; 4096], File::from(master));
    while let Ok(count @ 1..) = master.read(&mut piece) {
        shown.extend_from_slice(&piece[..count]);
    }
    let code = child.wait().expect("a child can be waited for").code();
    (code, String::from_utf8_lossy(&shown).into_owned())
}
