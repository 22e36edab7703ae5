//! The grammar of control commands: a line of words becomes a [`Command`]. Pure.
//!
//! One table has the names, the forms and the help. A backend is one word (`HOST:PORT` or a URL) or
//! two (a host and a port); an IPv6 address needs brackets only before a port in the same word.

use crate::config::values::{parse_count, parse_duration};
use crate::config::{HostPort, nearest, parse_weight};
use std::fmt::Write as _;
use std::net::Ipv6Addr;
use std::time::Duration;

/// A control command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Lists the backends.
    List,
    /// Shows the statistics of some periods, or of all.
    Stats(Option<String>),
    /// Adds a backend.
    Add {
        /// The new backend.
        backend: HostPort,
        /// Its weight, if it is given.
        weight: Option<u32>,
    },
    /// Removes a backend.
    Remove(HostPort),
    /// Gives a backend no further requests.
    Drain {
        /// The backend.
        backend: HostPort,
        /// The longest wait for its requests in flight.
        wait: Option<Duration>,
    },
    /// Gives a drained backend requests again.
    Resume(HostPort),
    /// Changes the weight of a backend.
    Weight {
        /// The backend.
        backend: HostPort,
        /// Its new weight.
        weight: u32,
    },
    /// Changes the algorithm, or shows the one in use.
    Algorithm(Option<String>),
    /// Reloads the configuration file.
    Reload,
    /// Shows whether the balancer is ready.
    Health,
    /// Shows the commands.
    Help,
}

/// A row of the table of commands.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// The first word.
    pub name: &'static str,
    /// The words after it; `BACKEND` stands for one or two words.
    pub words: &'static str,
    /// The effect, in one line.
    pub help: &'static str,
    parse: fn(&mut Words<'_>) -> Result<Command, String>,
}

/// The commands, in the order of the help.
pub const FORMS: [Form; 11] = [
    Form {
        name: "list",
        words: "",
        help: "show the backends: state, weight, requests in flight, why",
        parse: |_| Ok(Command::List),
    },
    Form {
        name: "stats",
        words: "[periods]",
        help: "show requests, errors and response times: of 5m,30m,1h,6h,24h,all",
        parse: |words| words.periods().map(Command::Stats),
    },
    Form {
        name: "add",
        words: "BACKEND [weight]",
        help: "add a backend; returns after its first check",
        parse: |words| Ok(Command::Add { backend: words.backend()?, weight: words.weight()? }),
    },
    Form {
        name: "remove",
        words: "BACKEND",
        help: "remove a backend; its requests in flight finish",
        parse: |words| words.backend().map(Command::Remove),
    },
    Form {
        name: "drain",
        words: "BACKEND [--wait 30s]",
        help: "give a backend no new requests; --wait returns when none is in flight",
        parse: |words| {
            let wait = words.wait()?;
            Ok(Command::Drain { backend: words.backend()?, wait })
        },
    },
    Form {
        name: "resume",
        words: "BACKEND",
        help: "give a drained backend requests again",
        parse: |words| words.backend().map(Command::Resume),
    },
    Form {
        name: "weight",
        words: "BACKEND <weight>",
        help: "change a backend's weight, from 1 to 1000",
        parse: |words| {
            let backend = words.backend()?;
            let weight = words.weight()?.ok_or("the weight is missing")?;
            Ok(Command::Weight { backend, weight })
        },
    },
    Form {
        name: "algorithm",
        words: "[name]",
        help: "change the algorithm; without a name, show the one in use",
        parse: |words| Ok(Command::Algorithm(words.next().map(str::to_owned))),
    },
    Form {
        name: "reload",
        words: "",
        help: "reload the configuration file now, and show what changes",
        parse: |_| Ok(Command::Reload),
    },
    Form {
        name: "health",
        words: "",
        help: "show whether the balancer is ready, by the exit status too",
        parse: |_| Ok(Command::Health),
    },
    Form { name: "help", words: "", help: "show these commands", parse: |_| Ok(Command::Help) },
];

impl Form {
    /// The right form: both spellings of a backend.
    fn usage(&self) -> String {
        let Self { name, words, .. } = self;
        let form = |backend| format!("{name} {}", words.replace("BACKEND", backend));
        if words.contains("BACKEND") {
            format!("`{}` or `{}`", form("<host> <port>"), form("<url>"))
        } else {
            format!("`{}`", form("").trim_end())
        }
    }
}

/// Parses a line. The error is one sentence: the problem and the right form.
pub fn parse_line(line: &str) -> Result<Command, String> {
    parse(&line.split_whitespace().collect::<Vec<_>>())
}

/// Parses the words of a line, as [`parse_line`] does.
pub fn parse(words: &[&str]) -> Result<Command, String> {
    let names = FORMS.map(|form| form.name);
    let Some((name, rest)) = words.split_first() else {
        return Err(format!("the command is missing; use one of {}", names.join(", ")));
    };
    let Some(form) = FORMS.iter().find(|form| form.name.eq_ignore_ascii_case(name)) else {
        return Err(match nearest(name, names) {
            Some(near) => format!("`{name}` is no command; did you mean `{near}`?"),
            None => format!("`{name}` is no command; use one of {}", names.join(", ")),
        });
    };
    let mut words = Words { rest: rest.to_vec() };
    let parsed = (form.parse)(&mut words).and_then(|command| match words.next() {
        Some(extra) => Err(format!("`{extra}` is more than `{}` takes", form.name)),
        None => Ok(command),
    });
    parsed.map_err(|problem| format!("{problem}; the form is {}", form.usage()))
}

/// The commands as lines of help.
pub fn help() -> String {
    let head = "Commands (BACKEND is `<host> <port>`, `HOST:PORT` or a URL):\n".to_owned();
    let lefts = FORMS.map(|form| format!("{} {}", form.name, form.words));
    let width = lefts.iter().map(String::len).max().unwrap_or_default();
    FORMS.iter().zip(&lefts).fold(head, |mut text, (form, left)| {
        let _ = writeln!(text, "  {left:width$}  {}", form.help);
        text
    })
}

/// The words after the first one, taken from the front.
struct Words<'a> {
    rest: Vec<&'a str>,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        (!self.rest.is_empty()).then(|| self.rest.remove(0))
    }

    fn backend(&mut self) -> Result<HostPort, String> {
        let first = self.next().ok_or("the backend is missing")?;
        if !is_host(first) {
            return HostPort::parse(first);
        }
        let port = self.next().ok_or_else(|| format!("`{first}` has no port"))?;
        let port = parse_count(port, 1, u16::MAX.into()).ok().and_then(|port| port.try_into().ok());
        let port =
            port.ok_or_else(|| format!("the port of `{first}` is not a number from 1 to 65535"))?;
        HostPort::new(first, port)
    }

    fn weight(&mut self) -> Result<Option<u32>, String> {
        self.next().map(parse_weight).transpose()
    }

    fn wait(&mut self) -> Result<Option<Duration>, String> {
        let Some(text) = self.flag("--wait", "duration")? else { return Ok(None) };
        parse_duration(text).map(Some).map_err(|error| format!("--wait: {error}"))
    }

    /// All words that are left, as one list.
    fn periods(&mut self) -> Result<Option<String>, String> {
        let flag = self.flag("--periods", "periods")?;
        let all: Vec<&str> = flag.into_iter().chain(self.rest.drain(..)).collect();
        Ok((!all.is_empty()).then(|| all.join(",")))
    }

    /// Takes `--name VALUE` or `--name=VALUE` from anywhere.
    fn flag(&mut self, name: &str, value: &str) -> Result<Option<&'a str>, String> {
        let is_flag = |word: &&str| word.split('=').next() == Some(name);
        let Some(at) = self.rest.iter().position(is_flag) else {
            return Ok(None);
        };
        match self.rest.remove(at).split_once('=') {
            Some((_, text)) => Ok(Some(text)),
            None if at < self.rest.len() => Ok(Some(self.rest.remove(at))),
            None => Err(format!("{name} has no {value}")),
        }
    }
}

/// Whether the word is a host alone, so that its port is the next word.
fn is_host(word: &str) -> bool {
    let has_no_port = !word.contains(':') || word.ends_with(']');
    !word.contains("://") && (has_no_port || word.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(text: &str) -> HostPort {
        HostPort::parse(text).unwrap()
    }

    #[test]
    fn every_command_has_its_forms() {
        let one = || backend("localhost:8001");
        let second = Duration::from_secs(1);
        for (line, command) in [
            ("list", Command::List),
            ("LIST", Command::List),
            ("reload", Command::Reload),
            ("health", Command::Health),
            ("help", Command::Help),
            ("stats", Command::Stats(None)),
            ("stats 5m,1h", Command::Stats(Some("5m,1h".to_owned()))),
            ("stats 5m all", Command::Stats(Some("5m,all".to_owned()))),
            ("stats --periods=5m", Command::Stats(Some("5m".to_owned()))),
            ("stats --periods 5m all", Command::Stats(Some("5m,all".to_owned()))),
            ("add localhost 8001", Command::Add { backend: one(), weight: None }),
            ("add localhost 8001 2", Command::Add { backend: one(), weight: Some(2) }),
            ("add http://localhost:8001/ 2", Command::Add { backend: one(), weight: Some(2) }),
            ("  remove   LocalHost  8001 ", Command::Remove(one())),
            ("remove localhost:8001", Command::Remove(one())),
            ("drain localhost 8001", Command::Drain { backend: one(), wait: None }),
            (
                "drain localhost 8001 --wait 1s",
                Command::Drain { backend: one(), wait: Some(second) },
            ),
            (
                "drain --wait=1 localhost:8001",
                Command::Drain { backend: one(), wait: Some(second) },
            ),
            ("resume http://localhost:8001", Command::Resume(one())),
            ("weight localhost 8001 3", Command::Weight { backend: one(), weight: 3 }),
            ("weight localhost:8001 1000", Command::Weight { backend: one(), weight: 1000 }),
            ("algorithm", Command::Algorithm(None)),
            ("algorithm Least-Conn", Command::Algorithm(Some("Least-Conn".to_owned()))),
        ] {
            assert_eq!(parse_line(line), Ok(command), "{line}");
        }
    }

    #[test]
    fn a_backend_is_a_host_and_a_port_or_one_word() {
        for (words, name) in [
            ("127.0.0.1 80", "127.0.0.1:80"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("app_1.internal 8080", "app_1.internal:8080"),
            ("http://app", "app:80"),
            ("HTTP://APP/", "app:80"),
            ("::1 80", "[::1]:80"),
            ("[::1] 80", "[::1]:80"),
            ("[::1]:80", "[::1]:80"),
            ("http://[::1]:8080", "[::1]:8080"),
            ("http://[::1]", "[::1]:80"),
            ("2001:db8::5 65535", "[2001:db8::5]:65535"),
        ] {
            let parsed = parse_line(&format!("remove {words}"));
            assert_eq!(parsed, Ok(Command::Remove(backend(name))), "{words}");
            let weighted = parse_line(&format!("weight {words} 7"));
            assert_eq!(weighted, Ok(Command::Weight { backend: backend(name), weight: 7 }));
        }
    }

    #[test]
    fn an_error_names_the_problem_and_the_right_form() {
        let add = "`add <host> <port> [weight]` or `add <url> [weight]`";
        let drain = "`drain <host> <port> [--wait 30s]` or `drain <url> [--wait 30s]`";
        let weight = "`weight <host> <port> <weight>` or `weight <url> <weight>`";
        for (line, problem, form) in [
            ("", "command is missing", "one of list, stats, add"),
            ("lits", "`lits` is no command", "did you mean `list`?"),
            ("xyz", "`xyz` is no command", "one of list, stats, add"),
            ("list all", "`all` is more than `list` takes", "the form is `list`"),
            ("add", "backend is missing", add),
            ("add localhost", "`localhost` has no port", add),
            ("add [::1]", "`[::1]` has no port", add),
            ("add ::1", "`::1` has no port", add),
            ("add localhost http", "port of `localhost`", add),
            ("add localhost 0", "from 1 to 65535", add),
            ("add localhost 65536", "from 1 to 65535", add),
            ("add localhost +80", "from 1 to 65535", add),
            ("add localhost 80 0", "weight `0` is not a whole number from 1 to 1000", add),
            ("add localhost:80 -1", "weight `-1`", add),
            ("add localhost 80 1 2", "`2` is more than `add` takes", add),
            ("add https://localhost 1", "https", add),
            ("add http://localhost/app", "has a path", add),
            ("add a/b 80", "path", add),
            ("weight localhost 8001", "weight is missing", weight),
            ("weight localhost:8001 x", "weight `x`", weight),
            ("drain localhost 80 --wait", "--wait has no duration", drain),
            ("drain localhost 80 --wait soon", "`soon` is not a duration", drain),
            ("drain localhost 80 30s", "`30s` is more than `drain` takes", drain),
            ("remove localhost 80 --wait 5s", "`--wait` is more", "`remove <host> <port>`"),
            ("stats --periods", "--periods has no periods", "`stats [periods]`"),
            ("algorithm a b", "`b` is more", "`algorithm [name]`"),
        ] {
            let error = parse_line(line).unwrap_err();
            assert!(error.contains(problem), "{line}: {error}");
            assert!(error.contains(form), "{line}: {error}");
            assert!(!error.contains('\n'), "{line}: {error}");
        }
    }

    #[test]
    fn the_help_has_each_command_in_one_line() {
        let help = help();
        assert_eq!(help.lines().count(), 1 + FORMS.len());
        assert!(help.contains("add BACKEND [weight]"), "{help}");
        assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    }
}
